//! What the cookie says of the end.
use super::*;
use crate::support::caches::on_every_cache;

on_every_cache! {
    #[tokio::test] in crate::lifetimes::aging;
    remember_me_is_kept_in_the_record,
}

fn max_age(reply: &Reply) -> Option<u64> {
    let text = reply.headers.get(header::SET_COOKIE)?.to_str().unwrap();
    Some(text.split("; ").find_map(|part| part.strip_prefix("Max-Age="))?.parse().unwrap())
}

/// Whether the browser keeps the cookie for so long.
fn lasts(reply: &Reply, time: Duration) -> bool {
    max_age(reply).is_some_and(|age| ((time - SLACK).as_secs()..=time.as_secs()).contains(&age))
}

async fn remember_me_is_kept_in_the_record<C: Cache>(trial: Trial<C>) {
    for persistent in [false, true] {
        let layer = SessionLayer::builder(trial.store.clone()).persistent(persistent).build().unwrap();
        let reply = visit(&layer, None, &[Set]).await;
        assert_eq!(max_age(&reply).is_some(), persistent);
        let mut cookie = reply.cookie().unwrap();
        for own in [!persistent, persistent] {
            let reply = visit(&layer, Some(&cookie), &[Persistent(own)]).await;
            assert_eq!((reply.cookie().as_deref(), lasts(&reply, HOUR)), (Some(&*cookie), own), "the same ID again");
            for does in [Read, Write, Touch, Persistent(own)] {
                assert_eq!(visit(&layer, Some(&cookie), &[does]).await.cookie(), None, "once is enough");
            }
            for _ in 0..2 {
                let reply = visit(&layer, Some(&cookie), &[Renew]).await;
                assert_eq!((max_age(&reply).is_some(), lasts(&reply, HOUR)), (own, own));
                cookie = reply.cookie().unwrap();
            }
        }
    }
}

/// Redis's clock cannot be turned, so this looks into memory; what Redis is told is in `on_redis`.
#[tokio::test]
async fn the_cookie_and_the_cache_are_told_the_same_end() {
    let longer = Lifetime(5 * HOUR);
    // What is done, whether the cookie goes out again, and whether it is the tombstone that is looked at.
    let acts = [
        (Read, false, false),
        (Write, false, false),
        (Touch, false, false),
        (Renew, true, false),
        (Renew, true, true),
        (longer, true, false),
    ];
    for (own, lifetime) in [(None, HOUR), (Some(2 * HOUR), 2 * HOUR), (Some(400 * DAY), 400 * DAY)] {
        for (does, is_sent, tombstone) in acts {
            let trial = aging::memory().await.1;
            let store = trial.store.clone().ttl(Duration::MAX);
            let layer = SessionLayer::builder(store.clone()).persistent(true).refresh(OnLoad).build().unwrap();
            let first: Vec<_> = [Set].into_iter().chain(own.map(Lifetime)).collect();
            let reply = visit(&layer, None, &first).await;
            assert!(lasts(&reply, lifetime), "{lifetime:?}: {reply:?}");

            trial.pass(20 * MINUTE);
            let cookie = reply.cookie().unwrap();
            let old = key(&store, &cookie).await;
            let reply = visit(&layer, Some(&cookie), &[does]).await;
            let left = if does == longer { 5 * HOUR } else { lifetime } - 20 * MINUTE;
            assert_eq!((reply.cookie().is_some(), lasts(&reply, left)), (is_sent, is_sent), "{does:?}: {reply:?}");

            let new = reply.cookie().unwrap_or_else(|| cookie.clone());
            assert_eq!(new == cookie, does != Renew);
            let (key, end) = if tombstone { (old, HOUR) } else { (key(&store, &new).await, left) };
            trial.pass(end - SLACK);
            assert!(trial.entry(&key).await.is_some(), "{does:?}, {lifetime:?}");
            trial.pass(SLACK);
            assert!(trial.entry(&key).await.is_none(), "{does:?}, {lifetime:?}");
        }
    }
}
