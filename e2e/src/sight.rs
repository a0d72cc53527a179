//! A watch that survives everything: tests end API servers, and whoever observes them starts again at once.

use std::time::Duration;

use futures::TryStreamExt as _;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;

/// Between two attempts. Not the usual growing pause: the observer must not be what is slow.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls `note` with everything that happens to the objects of `api`, for ever.
pub async fn follow<K>(api: Api<K>, mut note: impl FnMut(Event<K>))
where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
    loop {
        match events.try_next().await {
            Ok(Some(event)) => note(event),
            Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(None) => return,
        }
    }
}
