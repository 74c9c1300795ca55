//! Revoking while the same sessions are used, renewed and made.
use super::*;

/// A little chance without a dependency.
fn chance(below: u64) -> u64 {
    u64::from(Version::unique()) % below
}

/// Requests of one browser, while others do what they do. Every ID that it was ever given.
async fn browse(store: Store, mut visitor: Visitor, count: usize) -> Vec<String> {
    let mut ids: Vec<String> = visitor.id.iter().cloned().collect();
    for _ in 0..count {
        let what = chance(4);
        visitor = visit(&store, visitor.id.as_deref(), move |session| async move {
            if session.is_new() {
                // Signed out.
                return Ok(());
            }
            match what {
                0 => session.set("n", u64::from(Version::unique()))?,
                1 => session.touch(),
                _ => session.renew(),
            }
            Ok(())
        })
        .await;
        ids.extend(visitor.id.iter().cloned());
    }
    ids
}

async fn revoked_or_listed(world: World, rounds: usize) {
    let store = world.store();
    for round in 0..rounds {
        let owner: &'static str = OWNERS[round % OWNERS.len()];
        let mut old = Vec::new();
        for _ in 0..3 {
            old.push(login(&store, None, owner).await);
        }
        let revoking = tokio::spawn({
            let store = store.clone();
            async move {
                for _ in 0..chance(6) {
                    tokio::task::yield_now().await;
                }
                store.revoke_all(owner).await.unwrap()
            }
        });
        let browsing: Vec<_> = old.into_iter().map(|visitor| tokio::spawn(browse(store.clone(), visitor, 3))).collect();
        let making: Vec<_> = (0..3)
            .map(|how| {
                let store = store.clone();
                tokio::spawn(async move {
                    let id = match how {
                        0 => None,
                        _ => visit(&store, None, |session| async move { session.set("cart", 1) }).await.id,
                    };
                    visit(&store, id.as_deref(), move |session| async move {
                        if how == 2 {
                            session.renew();
                        }
                        session.set("made", true)?;
                        session.set_owner(owner)
                    })
                    .await
                })
            })
            .collect();
        let ended = revoking.await.unwrap();
        assert!((3..=6).contains(&ended), "{}: {ended}", world.name);
        let mut made = HashSet::new();
        for making in making {
            let visitor = making.await.unwrap();
            if lives(&store, &visitor).await {
                made.insert(visitor.key().unwrap());
            }
        }
        for browsing in browsing {
            for id in browsing.await.unwrap() {
                assert!(store.load(&id).await.unwrap().is_none(), "{}: it lives again", world.name);
            }
        }
        assert_eq!(keys(&store, owner).await, made, "{}: what lives is listed, and nothing else", world.name);
        assert_eq!(store.revoke_all(owner).await.unwrap(), made.len());
        assert!(keys(&store, owner).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_all_against_everything_else() {
    for world in World::all().await {
        world.cache.yield_always(true);
        let is_brief = world.name.ends_with("six methods") || world.name.starts_with("encrypted");
        let rounds = if is_brief { 50 } else { 200 };
        revoked_or_listed(world, rounds).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_others_never_ends_the_one_it_keeps() {
    for world in World::all().await {
        world.cache.yield_always(true);
        let store = world.store();
        for _ in 0..100 {
            let mut kept = login(&store, None, "alice").await;
            let key = kept.key().unwrap();
            let others = [login(&store, None, "alice").await, login(&store, None, "alice").await];
            let renewing = tokio::spawn({
                let store = store.clone();
                async move {
                    for _ in 0..3 {
                        kept = renew(&store, &kept).await;
                    }
                    kept
                }
            });
            let browsing = others.map(|visitor| tokio::spawn(browse(store.clone(), visitor, 2)));
            for _ in 0..chance(20) {
                tokio::task::yield_now().await;
            }
            assert_eq!(store.revoke_others("alice", &key).await.unwrap(), 2, "{}", world.name);
            let kept = renewing.await.unwrap();
            for browsing in browsing {
                for id in browsing.await.unwrap() {
                    assert!(store.load(&id).await.unwrap().is_none(), "{}: it lives again", world.name);
                }
            }
            assert!(lives(&store, &kept).await, "{}", world.name);
            assert_eq!(keys(&store, "alice").await, set(&[&kept]), "{}", world.name);
            assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
        }
    }
}
