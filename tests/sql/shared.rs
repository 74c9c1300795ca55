//! What all SQL caches have to do beyond the contract.
use std::time::{Duration, SystemTime};

use cloakroom::{Bytes, Cache, CacheError, CacheErrorKind, Deleted, Entry, Expiry, ListMember, Replaced, Version};

pub(crate) fn expiry() -> Expiry {
    Expiry::new(Duration::from_secs(3600), SystemTime::now() + Duration::from_secs(7200))
}

pub(crate) fn entry(value: &'static str) -> Entry {
    Entry::new(Bytes::from_static(value.as_bytes()), Version::unique())
}

/// The kind of an error, and that neither it nor its cause tells a secret.
#[track_caller]
pub(crate) fn kind<T>(result: Result<T, CacheError>) -> CacheErrorKind {
    let Err(error) = result else { panic!("no error") };
    let shown = shown(&error);
    for secret in ["pa55", "127.0.0.1", "SELECT", "INSERT", "secret-key", "secret-value"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    error.kind()
}

pub(crate) fn shown(error: &CacheError) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error} {error:?} {}", cause.unwrap_or_default())
}

/// Numbers with and without the highest bit, as versions and back.
pub(crate) async fn versions_keep_all_their_bits(cache: &impl Cache) {
    for (number, version) in [0, 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX].into_iter().enumerate() {
        let key = format!("bits:{number}");
        let first = Entry::new(Bytes::from_static(b"1"), Version::from(version));
        assert!(cache.insert(&key, first.clone(), expiry()).await.unwrap());
        assert_eq!(cache.get(&key).await.unwrap(), Some(first.clone()));
        assert_eq!(cache.delete(&key, Version::from(version ^ 1)).await.unwrap(), Deleted::Conflict(first.clone()));
        let second = entry("2");
        assert_eq!(cache.replace(&key, first.version, second.clone(), expiry()).await.unwrap(), Replaced::Done);
        assert_eq!(cache.delete(&key, second.version).await.unwrap(), Deleted::Done);
    }
}

pub(crate) async fn what_is_too_long_is_an_error(cache: &impl Cache) {
    let long = "k".repeat(1024);
    assert!(cache.insert(&long, entry("secret-value"), expiry()).await.unwrap());
    assert!(cache.get(&long).await.unwrap().is_some());
    let far = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(cache.list_add(&long, &long, far).await.unwrap(), 1);
    assert_eq!(cache.list_page(&long, None, 9).await.unwrap().len(), 1);

    let longer = "k".repeat(1025);
    assert_eq!(kind(cache.insert(&longer, entry("x"), expiry()).await), CacheErrorKind::Unsupported);
    assert_eq!(kind(cache.get(&longer).await), CacheErrorKind::Unsupported);
    assert_eq!(kind(cache.list_add(&longer, "x", far).await), CacheErrorKind::Unsupported);
    let large = Entry::new(Bytes::from(vec![b'x'; 8 << 20]), Version::unique());
    assert!(cache.insert("large", large.clone(), expiry()).await.unwrap());
    assert!(cache.get("large").await.unwrap() == Some(large));
    let larger = Entry::new(Bytes::from(vec![b'x'; (8 << 20) + 1]), Version::unique());
    assert_eq!(kind(cache.insert("larger", larger, expiry()).await), CacheErrorKind::Unsupported);
    assert_eq!(cache.get("larger").await.unwrap(), None);
}

/// 16 writers that compare and set, on one entry: no conflict names the version that was just refused.
pub(crate) async fn conflicts_tell_what_is_there_now<C: Cache + Clone>(cache: &C) {
    const WRITERS: usize = 16;
    const EACH: usize = 30;
    let first = entry("0");
    assert!(cache.insert("raced", first.clone(), expiry()).await.unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (cache, mut expected) = (cache.clone(), first.version);
        writers.spawn(async move {
            let (mut done, mut refused) = (0, Vec::new());
            while done < EACH {
                let next = entry("n");
                let version = next.version;
                match cache.replace("raced", expected, next, expiry()).await.unwrap() {
                    Replaced::Done => {
                        done += 1;
                        expected = version;
                    }
                    Replaced::Conflict(there) => {
                        refused.push(expected);
                        assert!(!refused.contains(&there.version), "a conflict with a version that was refused");
                        expected = there.version;
                    }
                    Replaced::Missing => panic!("a live entry is gone"),
                }
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
}

/// Of many that add at once, the last one to count sees all.
pub(crate) async fn the_last_one_to_add_counts_all<C: Cache + Clone>(cache: &C) {
    let end = SystemTime::now() + Duration::from_secs(60);
    let mut adders = tokio::task::JoinSet::new();
    for number in 0..20 {
        let cache = cache.clone();
        adders.spawn(async move { cache.list_add("counted", &format!("m{number}"), end).await.unwrap() });
    }
    let counts = adders.join_all().await;
    assert_eq!(counts.iter().max(), Some(&20), "{counts:?}");
}

/// More names than one statement has places for.
pub(crate) async fn many_members_are_removed(cache: &impl Cache) {
    let end = SystemTime::now() + Duration::from_secs(60);
    let names: Vec<_> = (0..600).map(|number| format!("member-{number:04}")).collect();
    for name in &names {
        cache.list_add("many", name, end).await.unwrap();
    }
    cache.list_remove("many", &names[..590]).await.unwrap();
    let left = cache.list_page("many", None, 1000).await.unwrap();
    assert_eq!(left.iter().map(|member| &member.name).collect::<Vec<_>>(), names[590..].iter().collect::<Vec<_>>());
    let after = ListMember::new("member-0594", left[0].end);
    assert_eq!(cache.list_page("many", Some(&after), 2).await.unwrap().len(), 2);
}

/// `ahead` is on the same tables, and the clock of its database is ahead by an hour.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) async fn idle_time_goes_by_the_clock_of_the_database_and_the_end_by_ours(
    cache: &impl Cache,
    ahead: &impl Cache,
) {
    let after = |minutes: u64| Duration::from_secs(60 * minutes);
    let idle = Expiry::new(after(30), SystemTime::now() + after(600));
    let end = Expiry::new(after(600), SystemTime::now() + after(30));
    for (key, expiry) in [("idle", idle), ("end", end)] {
        assert!(cache.insert(key, entry("x"), expiry).await.unwrap());
        assert!(cache.get(key).await.unwrap().is_some());
    }
    assert_eq!(ahead.get("idle").await.unwrap(), None);
    assert!(!ahead.touch("idle").await.unwrap());
    assert!(ahead.get("end").await.unwrap().is_some());
    assert!(ahead.touch("end").await.unwrap());
    assert!(ahead.insert("idle", entry("y"), idle).await.unwrap(), "over what has ended");
    assert!(ahead.get("idle").await.unwrap().is_some());
}
