//! Consistent lists of IPAddresses for rule F3, shared: one at a time in each scope, and it serves every pool that
//! asked before it began. Hundreds of pools that appear together must not cost hundreds of lists.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kube::{Api, Client};

use super::observe;
use super::watch::list_all;
use crate::api::capi::{CapiVersion, IPAddress};
use crate::pool::key::{PoolKey, Version};
use crate::pool::object::Address;

/// The addresses of all pools of a scope.
#[derive(Debug)]
struct Listed {
    version: Version,
    of_pool: HashMap<PoolKey, Vec<Arc<Address>>>,
}

/// A namespace, or everything.
#[derive(Debug, Default)]
struct Scope {
    /// Who asks takes a number, and so does a list that begins: it serves all lower numbers.
    next: AtomicU64,
    asking: AtomicUsize,
    turn: tokio::sync::Mutex<Option<(u64, Arc<Listed>)>>,
}

/// Somebody who asks, until it has what it asked for or has given up.
struct Asking<'a> {
    scope: &'a Scope,
    number: u64,
}

impl<'a> Asking<'a> {
    fn of(scope: &'a Scope) -> Self {
        scope.asking.fetch_add(1, Ordering::SeqCst);
        Self { scope, number: scope.next.fetch_add(1, Ordering::SeqCst) }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.scope.asking.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nobody waits for the list any more, and it may be large.
            if let Ok(mut last) = self.scope.turn.try_lock() {
                *last = None;
            }
        }
    }
}

/// The lists of one process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lists {
    client: Client,
    api: CapiVersion,
    scopes: Arc<Mutex<HashMap<Arc<str>, Arc<Scope>>>>,
}

impl Lists {
    pub(super) fn new(client: Client, api: CapiVersion) -> Self {
        Self { client, api, scopes: Arc::default() }
    }

    /// The addresses of a pool as a list shows them that began after this call.
    pub(super) async fn of_pool(&self, pool: &PoolKey) -> Result<(Version, Vec<Arc<Address>>), kube::Error> {
        let scope = self.scope(&pool.namespace);
        let asking = Asking::of(&scope);
        let listed = self.listed(&scope, &pool.namespace, asking.number).await;
        listed.map(|listed| (listed.version, listed.of_pool.get(pool).cloned().unwrap_or_default()))
    }

    async fn listed(&self, scope: &Scope, namespace: &str, asked: u64) -> Result<Arc<Listed>, kube::Error> {
        let mut last = scope.turn.lock().await;
        if let Some((began, listed)) = &*last
            && *began > asked
        {
            return Ok(listed.clone());
        }
        let began = scope.next.fetch_add(1, Ordering::SeqCst);
        let listed = Arc::new(self.list(namespace).await?);
        *last = Some((began, listed.clone()));
        Ok(listed)
    }

    async fn list(&self, namespace: &str) -> Result<Listed, kube::Error> {
        let resource = self.api.addresses();
        let api: Api<IPAddress> = if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        };
        let (objects, version) = list_all(&api).await?;
        let mut of_pool: HashMap<PoolKey, Vec<Arc<Address>>> = HashMap::new();
        for address in objects.iter().filter_map(observe::address) {
            if let Some(pool) = &address.pool {
                of_pool.entry(pool.clone()).or_default().push(address);
            }
        }
        Ok(Listed { version, of_pool })
    }

    fn scope(&self, namespace: &Arc<str>) -> Arc<Scope> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        // Namespaces come and go; what nobody asks for is not kept.
        scopes.retain(|_, scope| scope.asking.load(Ordering::SeqCst) > 0 || Arc::strong_count(scope) > 1);
        scopes.entry(namespace.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::api::names::PoolKind;

    #[tokio::test]
    async fn who_gives_up_does_not_count_as_asking_any_more() {
        let (service, _unanswered) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let lists = Lists::new(Client::new(service, "default"), CapiVersion::V1Beta2);
        let pool = PoolKey::referenced(PoolKind::InClusterIPPool, "ns", "p");
        let scope = lists.scope(&pool.namespace);
        let mut asked = Box::pin(lists.of_pool(&pool));
        assert!(asked.as_mut().now_or_never().is_none(), "nobody answers");
        assert_eq!(scope.asking.load(Ordering::SeqCst), 1);
        drop(asked);
        assert_eq!(scope.asking.load(Ordering::SeqCst), 0);
        assert!(scope.turn.try_lock().is_ok(), "the next one may list");
    }
}
