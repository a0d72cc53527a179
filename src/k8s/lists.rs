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
        let asked = scope.next.fetch_add(1, Ordering::SeqCst);
        scope.asking.fetch_add(1, Ordering::SeqCst);
        let listed = self.listed(&scope, &pool.namespace, asked).await;
        if scope.asking.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nobody waits for it any more, and it may be large.
            if let Ok(mut last) = scope.turn.try_lock() {
                *last = None;
            }
        }
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
