//! The lists of keys. They may be kept by the system's clock, so that these checks wait for real.
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::trial::{Late, ROUNDING, Trial, holds, ok, same, together};
use crate::cache::Cache;

fn end_in(millis: u64) -> SystemTime {
    SystemTime::now() + Duration::from_millis(millis)
}

impl<C: Cache> Trial<C> {
    async fn add(&self, list: &str, member: &str, end: SystemTime) -> usize {
        ok(self.cache.list_add(list, member, end).await)
    }

    async fn members(&self, list: &str) -> Vec<String> {
        let page = ok(self.cache.list_page(list, None, 100).await);
        page.into_iter().map(|member| member.name).collect()
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(super) async fn an_absent_list_is_empty<C: Cache>(t: &Trial<C>) {
    let list = t.key();
    same("a list that is not there is empty", &t.members(&list).await, &Vec::new());
    ok(t.cache.list_remove(&list, &names(&["absent"])).await);
    ok(t.cache.list_remove(&list, &[]).await);
    same("removing creates no list", &t.members(&list).await, &Vec::new());
}

pub(super) async fn members_are_sorted_by_their_end<C: Cache>(t: &Trial<C>) {
    let (list, other) = (t.key(), t.key());
    t.add(&list, "second", end_in(60_000)).await;
    t.add(&list, "third", end_in(90_000)).await;
    t.add(&list, "first", end_in(30_000)).await;
    t.add(&other, "else", end_in(10_000)).await;
    let sorted = names(&["first", "second", "third"]);
    same("the members that end first are in front", &t.members(&list).await, &sorted);
}

pub(super) async fn adding_a_member_again_moves_its_end_later_only<C: Cache>(t: &Trial<C>) {
    let list = t.key();
    t.add(&list, "a", end_in(30_000)).await;
    t.add(&list, "b", end_in(60_000)).await;
    t.add(&list, "a", end_in(90_000)).await;
    same("adding a member again moves its end later", &t.members(&list).await, &names(&["b", "a"]));
    t.add(&list, "a", end_in(30_000)).await;
    same("adding a member again never moves its end earlier", &t.members(&list).await, &names(&["b", "a"]));
}

pub(super) async fn adding_returns_how_many_members_there_are<C: Cache>(t: &Trial<C>) {
    let sentence = "`list_add` returns how many members the list then has";
    let list = t.key();
    for (member, count) in [("a", 1), ("b", 2), ("a", 2), ("c", 3)] {
        same(sentence, &t.add(&list, member, end_in(30_000)).await, &count);
    }
    ok(t.cache.list_remove(&list, &names(&["a", "b"])).await);
    same(sentence, &t.add(&list, "d", end_in(30_000)).await, &2);
}

pub(super) async fn pages_have_every_member_once<C: Cache>(t: &Trial<C>) {
    let (list, end, later) = (t.key(), end_in(30_000), end_in(60_000));
    // Names that sort differently by bytes and by letters.
    let all = ["-", "0", "A", "B", "Z", "_", "a", "b", "z"];
    for name in all {
        t.add(&list, name, end).await;
        t.add(&list, &format!("{name}{name}"), later).await;
    }
    let expected: Vec<_> =
        all.iter().map(|name| (*name).to_owned()).chain(all.iter().map(|name| format!("{name}{name}"))).collect();
    for limit in [1, 2, 5, 18, 19] {
        let (mut read, mut after) = (Vec::new(), None);
        loop {
            let page = ok(t.cache.list_page(&list, after.as_ref(), limit).await);
            holds("a page has no more members than asked for", page.len() <= limit);
            let Some(last) = page.last().cloned() else { break };
            read.extend(page.into_iter().map(|member| member.name));
            after = Some(last);
        }
        same("pages have every member once, in the order of ends and names", &read, &expected);
    }
    let none = ok(t.cache.list_page(&list, None, 0).await);
    same("a page of no members is empty", &none, &Vec::new());
    t.add(&list, "far", SystemTime::now() + Duration::from_secs(1 << 40)).await;
    let whole = ok(t.cache.list_page(&list, None, usize::MAX).await);
    same("a page without a limit is the whole list", &whole.len(), &(expected.len() + 1));
    let behind = ok(t.cache.list_page(&list, whole.last(), usize::MAX).await);
    same("there is nothing behind the last member", &behind, &Vec::new());
}

pub(super) async fn a_page_begins_behind_a_member_that_is_gone<C: Cache>(t: &Trial<C>) {
    let (list, end) = (t.key(), end_in(30_000));
    for name in ["a", "b", "c", "d", "e"] {
        t.add(&list, name, end).await;
    }
    let page = ok(t.cache.list_page(&list, None, 2).await);
    ok(t.cache.list_remove(&list, &names(&["a", "b"])).await);
    let next = ok(t.cache.list_page(&list, page.last(), 2).await);
    let next: Vec<_> = next.into_iter().map(|member| member.name).collect();
    same("a page begins behind a member that is gone", &next, &names(&["c", "d"]));
}

pub(super) async fn removed_members_are_gone<C: Cache>(t: &Trial<C>) {
    let list = t.key();
    for (number, member) in ["a", "b", "c", "d"].into_iter().enumerate() {
        t.add(&list, member, end_in(30_000 + 1000 * number as u64)).await;
    }
    ok(t.cache.list_remove(&list, &names(&["b", "d", "absent"])).await);
    same("removed members are gone, and no others", &t.members(&list).await, &names(&["a", "c"]));
    ok(t.cache.list_remove(&list, &names(&["a", "c"])).await);
    same("a list of which all are removed is empty", &t.members(&list).await, &Vec::new());
    t.add(&list, "e", end_in(30_000)).await;
    same("a list that was empty takes members again", &t.members(&list).await, &names(&["e"]));
}

pub(super) async fn members_end<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let (list, start, life) = (t.key(), Instant::now(), t.idle());
    t.add(&list, "stays", end_in(60_000)).await;
    t.add(&list, "ends", SystemTime::now() + life).await;
    let members = t.members(&list).await;
    // By the system's clock, whatever the cache's own is.
    if members.len() < 2 && start.elapsed() + ROUNDING >= life {
        return Err(Late);
    }
    same("a member is there before its end", &members, &names(&["ends", "stays"]));
    tokio::time::sleep(t.past_idle()).await;
    same("a member whose end has passed is no longer there", &t.members(&list).await, &names(&["stays"]));
    Ok(())
}

pub(super) async fn a_list_lives_as_long_as_its_longest_member<C: Cache>(t: &Trial<C>) {
    let list = t.key();
    t.add(&list, "long", end_in(60_000)).await;
    t.add(&list, "short", end_in(150)).await;
    let ended = t.key();
    t.add(&ended, "short", end_in(150)).await;
    tokio::time::sleep(Duration::from_millis(160)).await;
    let sentence = "a list lives as long as its longest-lived member";
    same(sentence, &t.members(&list).await, &names(&["long"]));
    same(sentence, &t.members(&ended).await, &Vec::new());
}

pub(super) async fn no_added_member_is_lost<C: Cache>(t: &Trial<C>) {
    let (list, start) = (t.key(), end_in(30_000));
    together(16, |number| {
        let (cache, list) = (Arc::clone(&t.cache), list.clone());
        async move {
            let end = start + Duration::from_secs(number as u64);
            ok(cache.list_add(&list, &format!("{number:02}"), end).await);
        }
    })
    .await;
    let all: Vec<_> = (0..16).map(|number| format!("{number:02}")).collect();
    same("of members added at the same time none is lost", &t.members(&list).await, &all);
}
