//! What the view shows of addresses that change.

use serde_json::json;

use super::*;

fn change(pool: &str) -> Change {
    let object = json!({
        "metadata": { "namespace": "ns", "name": "a", "uid": "u", "resourceVersion": "7" },
        "spec": {
            "claimRef": { "name": "a" }, "address": "10.0.0.1", "prefix": 24,
            "poolRef": { "apiGroup": "ipam.cluster.x-k8s.io", "kind": "InClusterIPPool", "name": pool },
        },
    });
    Change::Addresses(Event::Applied(serde_json::from_value(object).expect("an IPAddress")))
}

#[test]
fn an_address_that_names_another_pool_leaves_its_own() {
    let mut view = View::new(Filter::default(), CapiVersion::V1Beta2);
    let pools = ["p", "q"].map(|name| PoolKey::referenced(PoolKind::InClusterIPPool, "ns", name));
    let held = |view: &View| pools.clone().map(|pool| view.addresses_of(&pool).count());
    view.apply(change("p"), Boot::ZERO);
    assert_eq!(held(&view), [1, 0]);
    view.apply(change("p"), Boot::ZERO);
    assert_eq!(held(&view), [1, 0], "once");
    view.apply(change("q"), Boot::ZERO);
    assert_eq!((held(&view), view.pools()), ([0, 1], BTreeSet::from([pools[1].clone()])));
}

#[test]
fn addresses_of_pools_elsewhere_are_hidden_where_only_one_namespace_may_be_seen() {
    let filter = Filter { namespace: Some("ns".to_owned()), ..Filter::default() };
    let mut view = View::new(filter, CapiVersion::V1Beta2);
    let ip = PoolKind::InClusterIPPool;
    let pools = [
        PoolKey::referenced(ip, "ns", "p"),
        PoolKey::referenced(ip, "other", "p"),
        PoolKey::referenced(PoolKind::GlobalInClusterIPPool, "", "g"),
    ];
    let hidden = |view: &View| pools.clone().map(|pool| view.hides_addresses_of(&pool));
    assert_eq!(hidden(&view), [false; 3]);
    view.apply(Change::Addresses(Event::Narrowed(Some("forbidden".to_owned()))), Boot::ZERO);
    assert_eq!(hidden(&view), [false, true, true]);
    view.apply(Change::Addresses(Event::Forbidden("forbidden".to_owned())), Boot::ZERO);
    assert_eq!(hidden(&view), [true; 3]);
}
