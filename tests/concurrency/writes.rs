//! Requests of one session that overlap and write: nothing is lost.
use std::{sync::Arc, time::Duration};

use cloakroom::{Cache, SessionStore};
use tokio::{sync::Barrier, task::JoinSet};

use crate::support::{
    caches::on_every_cache,
    web::{layer, live, peek, send, start},
};

on_every_cache! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    writers_of_different_keys_all_take_effect,
    increments_add_up,
    the_order_of_calls_has_one_meaning,
}

async fn writers_of_different_keys_all_take_effect<C: Cache>(cache: C) {
    // On a busy machine 64 writes of one session take more than the default.
    let store = SessionStore::new(cache).deadline(Duration::from_secs(60));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let together = Arc::new(Barrier::new(64));
    let mut requests = JoinSet::new();
    for n in 0..64 {
        let (layer, cookie, together) = (layer.clone(), cookie.clone(), together.clone());
        requests.spawn(async move {
            let reply = send(&layer, Some(&cookie), move |session| {
                let together = together.clone();
                async move {
                    session.set(format!("key {n}"), n).unwrap();
                    together.wait().await;
                    200
                }
            })
            .await;
            assert_eq!(reply.status, 200);
        });
    }
    requests.join_all().await;
    let id = cookie.split_once('=').unwrap().1;
    let session = store.load(id).await.unwrap().unwrap();
    for n in 0..64 {
        assert_eq!(session.get::<u32>(format!("key {n}")), Some(n));
    }
}

async fn increments_add_up<C: Cache>(cache: C) {
    let store = SessionStore::new(cache).deadline(Duration::from_secs(20));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let mut requests = JoinSet::new();
    for _ in 0..200 {
        let (layer, cookie) = (layer.clone(), cookie.clone());
        requests.spawn(async move {
            let reply = send(&layer, Some(&cookie), |session| async move {
                session.update("n", |n: Option<u64>| n.unwrap_or_default() + 1).unwrap();
                tokio::task::yield_now().await;
                200
            })
            .await;
            assert_eq!(reply.status, 200);
        });
    }
    requests.join_all().await;
    assert_eq!(peek(&layer, &cookie, "n").await, Some(200));
}

async fn the_order_of_calls_has_one_meaning<C: Cache>(cache: C) {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Call {
        Set,
        Renew,
        Clear,
        Destroy,
    }
    use Call::*;
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    let mut orders = Vec::new();
    for a in [Set, Renew, Clear, Destroy] {
        for b in [Set, Renew, Clear, Destroy] {
            for c in [Set, Renew, Clear, Destroy] {
                orders.push([a, b, c]);
            }
        }
    }
    for order in orders {
        let cookie = start(&layer, "alice").await;
        let reply = send(&layer, Some(&cookie), move |session| async move {
            for call in order {
                match call {
                    Set => session.set("user", 42).unwrap(),
                    Renew => session.renew(),
                    Clear => session.clear(),
                    Destroy => session.destroy(),
                }
            }
            200
        })
        .await;
        let destroyed = order.contains(&Destroy);
        let renewed = order.contains(&Renew) && !destroyed;
        let last = |call| order.iter().rposition(|other| *other == call);
        let set = last(Set).is_some() && last(Set) > last(Clear);
        let now = match reply.cookie() {
            Some(removed) if destroyed => {
                assert_eq!(removed, "__Host-id=", "{order:?}");
                cookie.clone()
            }
            Some(new) => new,
            None => cookie.clone(),
        };
        assert_eq!(now != cookie, renewed, "{order:?}");
        assert_eq!(live(&store, "alice").await, usize::from(!destroyed), "{order:?}");
        assert_eq!(peek(&layer, &now, "user").await, (set && !destroyed).then_some(42), "{order:?}");
        let kept = !destroyed && !order.contains(&Clear);
        assert_eq!(peek(&layer, &now, "n").await, kept.then_some(0), "{order:?}");
        store.revoke_all("alice").await.unwrap();
    }
}
