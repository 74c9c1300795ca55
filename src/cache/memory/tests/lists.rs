//! Lists: large ones, their end by the cache's clock, and what they count for.
use super::*;
use crate::cache::{ListMember, memory::lists::OVERHEAD};

fn name(number: usize) -> String {
    format!("{number:043}")
}

#[tokio::test]
async fn a_list_of_200_000_members_is_read_in_pages_and_ends() {
    const MEMBERS: usize = 200_000;
    let (cache, clock) = cache(100, usize::MAX);
    let end = clock.now() + HOUR;
    for number in 0..MEMBERS {
        let end = end + Duration::from_millis((number % 1000) as u64);
        assert_eq!(cache.list_add("list", &name(number), end).await.unwrap(), number + 1);
    }
    assert_eq!(cache.bytes(), 4 + OVERHEAD + MEMBERS * (43 + OVERHEAD));
    let (mut read, mut after) = (0, None);
    loop {
        let page = cache.list_page("list", after.as_ref(), 1000).await.unwrap();
        assert!(page.is_sorted() && page.first().is_none_or(|first| Some(first) > after.as_ref()));
        read += page.len();
        let gone: Vec<_> = page.iter().take(500).map(|member| member.name.clone()).collect();
        cache.list_remove("list", &gone).await.unwrap();
        let Some(last) = page.last().cloned() else { break };
        after = Some(last);
    }
    assert_eq!(read, MEMBERS);
    assert_eq!(cache.bytes(), 4 + OVERHEAD + MEMBERS / 2 * (43 + OVERHEAD));
    clock.advance(HOUR + Duration::from_millis(499));
    let left = cache.list_page("list", None, usize::MAX).await.unwrap().len();
    assert_eq!(cache.list_add("list", "one more", clock.now() + HOUR).await.unwrap(), left + 1);
    clock.advance(2 * HOUR);
    assert_eq!(cache.list_page("list", None, 10).await.unwrap(), []);
    assert_eq!(cache.bytes(), 0);
}

#[tokio::test]
async fn lists_that_no_call_asks_for_end_all_the_same() {
    let (cache, clock) = cache(100, usize::MAX);
    for number in 0..10_000 {
        cache.list_add(&name(number % 3000), &name(number), clock.now() + HOUR).await.unwrap();
    }
    clock.advance(HOUR);
    for _ in 0..20_000 {
        assert!(cache.get("other").await.unwrap().is_none());
    }
    assert_eq!(cache.bytes(), 0);
}

#[tokio::test]
async fn lists_have_the_bound_on_bytes_and_what_has_ended_makes_room() {
    let list = 4 + OVERHEAD;
    let member = 43 + OVERHEAD;
    let (cache, clock) = cache(100, list + 10 * member);
    let end = clock.now() + HOUR;
    for number in 0..10 {
        cache.list_add("list", &name(number), end).await.unwrap();
    }
    let full = cache.list_add("list", &name(10), end).await.unwrap_err();
    assert_eq!(full.kind(), CacheErrorKind::Full);
    let full = cache.put("key", Bytes::from_static(b"value"), within(&clock, HOUR)).await.unwrap_err();
    assert_eq!(full.kind(), CacheErrorKind::Full);
    assert_eq!(cache.list_add("list", &name(9), end + HOUR).await.unwrap(), 10, "a later end takes no room");
    clock.advance(HOUR);
    assert_eq!(cache.list_add("another list", &name(11), end + HOUR).await.unwrap(), 1);
    cache.put("key", Bytes::from_static(b"value"), within(&clock, HOUR)).await.unwrap().unwrap();
    let left = cache.list_page("list", None, 10).await.unwrap();
    assert_eq!(left, [ListMember::new(name(9), end + HOUR)].map(|member| at_millis(&member)));
}

/// What comes back has the precision of milliseconds.
fn at_millis(member: &ListMember) -> ListMember {
    ListMember::new(&*member.name, crate::clock::time_of(crate::clock::millis_since_epoch(member.end)))
}

#[tokio::test]
async fn a_member_whose_end_is_over_is_not_added_and_moves_nothing() {
    let (cache, clock) = cache(100, usize::MAX);
    assert_eq!(cache.list_add("list", "late", clock.now()).await.unwrap(), 0);
    cache.list_add("list", "member", clock.now() + HOUR).await.unwrap();
    assert_eq!(cache.list_add("list", "member", clock.now()).await.unwrap(), 1);
    clock.rewind(HOUR);
    assert_eq!(cache.list_page("list", None, 10).await.unwrap().len(), 1);
    cache.list_remove("list", &["member".to_owned(), "late".to_owned()]).await.unwrap();
    assert_eq!(cache.bytes(), 0);
}
