//! What is in the tables after an operation or a sweep, and what an operation makes of rows that were changed beside it.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cloakroom::{Cache, Deleted, Expiry, ListMember, Replaced};

use crate::{
    shared::entry,
    support::{caches, sql_view::SqlView},
};

/// One test for each function and database. The functions take a cache and a look at its tables.
macro_rules! on_every_database {
    ($($name:ident),+ $(,)?) => {
        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let (file, cache) = super::caches::sqlite().await;
                super::$name(cache, file.view()).await;
            })+
        }
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let (tables, cache) = super::caches::postgres().await;
                super::$name(cache, tables.view()).await;
            })+
        }
        #[cfg(feature = "mysql")]
        mod mariadb {
            $(#[tokio::test]
            async fn $name() {
                let (tables, cache) = super::caches::mariadb().await;
                super::$name(cache, tables.view()).await;
            })+
        }
    };
}

on_every_database! {
    a_row_is_due_sooner_after_a_write_and_never_later,
    the_sweep_removes_what_has_ended_by_either_clock_and_moves_what_lives,
    the_sweep_of_lists_gives_other_clocks_five_minutes,
    a_list_is_in_the_order_of_ends_and_names_and_ends_move_later_only,
    a_touch_never_goes_back,
    a_repeated_insert_restarts_nothing,
    what_has_ended_by_either_clock_is_absent_for_every_operation,
    a_write_sets_idle_time_and_end_anew,
    what_ended_while_an_operation_waited_stays_ended,
    at_the_millisecond_of_its_end_an_entry_is_absent,
    inserts_remove_what_has_ended_time_and_again,
    calls_that_are_dropped_hold_nothing,
}

/// All SQL caches have it, and no trait of the crate names it.
trait Sweeps: Cache {
    async fn sweep_up_to(&self, limit: usize) -> usize;
}

macro_rules! sweeps {
    ($($feature:literal $cache:ident),+) => {$(
        #[cfg(feature = $feature)]
        impl Sweeps for cloakroom::$cache {
            async fn sweep_up_to(&self, limit: usize) -> usize {
                self.sweep(limit).await.unwrap()
            }
        }
    )+};
}

sweeps! { "sqlite" SqliteCache, "postgres" PostgresCache, "mysql" MySqlCache }

const HOUR: i64 = 3_600_000;
const MINUTE: i64 = 60_000;

fn now() -> i64 {
    UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

/// Ends so many hours from now, and not by its idle time.
fn ending_in(hours: u64) -> (Expiry, i64) {
    let end = now() + hours as i64 * HOUR;
    let time = UNIX_EPOCH + Duration::from_millis(end.unsigned_abs());
    (Expiry::new(Duration::from_secs(1_000 * 3600), time), end)
}

/// The sweep looks at a row after the hour in which it ends.
fn due(end: i64) -> i64 {
    (end / HOUR + 1) * HOUR
}

async fn a_row_is_due_sooner_after_a_write_and_never_later(cache: impl Cache, view: SqlView) {
    let ((first, first_end), (later, _), (sooner, sooner_end)) = (ending_in(20), ending_in(30), ending_in(5));
    let mut there = entry("1");
    assert!(cache.insert("k", there.clone(), first).await.unwrap());
    for (expiry, expected) in [(later, due(first_end)), (sooner, due(sooner_end))] {
        let next = entry("2");
        assert_eq!(cache.replace("k", there.version, next.clone(), expiry).await.unwrap(), Replaced::Done);
        assert_eq!(view.number("due_ms", "k"), expected);
        there = next;
    }
    // What has ended says nothing of the entry that is written over it.
    view.set("end_ms = 1", "k");
    let (last, last_end) = ending_in(50);
    assert!(cache.insert("k", entry("3"), last).await.unwrap());
    assert_eq!(view.number("due_ms", "k"), due(last_end));
    // The idle time may be over first.
    let (begun, idle) = (now(), Duration::from_secs(3 * 3600));
    assert!(cache.insert("idle", entry("4"), Expiry::new(idle, last.end)).await.unwrap());
    let next = view.number("due_ms", "idle");
    assert!((due(begun + 3 * HOUR)..=due(now() + 3 * HOUR)).contains(&next), "{next}");
}

async fn the_sweep_removes_what_has_ended_by_either_clock_and_moves_what_lives(cache: impl Sweeps, view: SqlView) {
    let (expiry, end) = ending_in(10);
    for key in ["lives", "lives as well", "lives too", "idle", "over", "over for other clocks"] {
        assert!(cache.insert(key, entry("x"), expiry).await.unwrap());
        view.set(if key.starts_with("lives") { "due_ms = 0" } else { "due_ms = 1" }, key);
    }
    view.set(&format!("idle_ms = {}", 3 * HOUR), "lives as well");
    view.set("touched_ms = 1", "idle");
    view.set(&format!("end_ms = {}", now() - 10 * MINUTE), "over");
    view.set(&format!("end_ms = {}", now() - MINUTE), "over for other clocks");
    let begun = now();
    // In batches of one row: what lives comes first, and each batch begins behind the ones before.
    assert_eq!(cache.sweep_up_to(1).await, 1);
    assert_eq!(cache.sweep_up_to(usize::MAX).await, 1);
    let mut left = view.keys();
    left.sort();
    assert_eq!(left, ["lives", "lives as well", "lives too", "over for other clocks"]);
    assert_eq!(view.number("due_ms", "lives"), due(end));
    assert_eq!(view.number("due_ms", "lives as well"), due(view.number("touched_ms", "lives as well") + 3 * HOUR));
    let next = view.number("due_ms", "over for other clocks");
    assert!((due(begun)..=due(now())).contains(&next), "{next}");
    assert_eq!(cache.sweep_up_to(usize::MAX).await, 0);
}

async fn the_sweep_of_lists_gives_other_clocks_five_minutes(cache: impl Sweeps, view: SqlView) {
    for (member, left) in [("lives", HOUR), ("over", -10 * MINUTE), ("over for other clocks", -MINUTE)] {
        let far = SystemTime::now() + Duration::from_secs(60);
        cache.list_add(member, member, far).await.unwrap();
        view.set_members(&format!("end_ms = {}", now() + left), member);
    }
    cache.sweep_up_to(usize::MAX).await;
    let mut left = view.keys();
    left.sort();
    assert_eq!(left, ["lives", "over for other clocks"]);
}

async fn a_list_is_in_the_order_of_ends_and_names_and_ends_move_later_only(cache: impl Cache, view: SqlView) {
    let base = UNIX_EPOCH + Duration::from_millis((now() + HOUR).unsigned_abs());
    let ms = Duration::from_millis;
    let page = async |list: &str, after: Option<&ListMember>| {
        let page = cache.list_page(list, after, 10).await.unwrap();
        page.into_iter().map(|member| (member.name, member.end)).collect::<Vec<_>>()
    };
    let member = |name: &str, end| (name.to_owned(), end);
    for (name, end) in [("b", base), ("a", base + ms(1)), ("c", base)] {
        cache.list_add("list", name, end).await.unwrap();
    }
    assert_eq!(cache.list_add("other list", "d", base).await.unwrap(), 1);
    let [a, b, c] = [member("a", base + ms(1)), member("b", base), member("c", base)];
    assert_eq!(page("list", None).await, [b.clone(), c.clone(), a.clone()]);
    assert_eq!(page("list", Some(&ListMember::new("b", base))).await, [c.clone(), a.clone()]);
    assert_eq!(page("list", Some(&ListMember::new("c", base))).await, std::slice::from_ref(&a));
    assert_eq!(cache.list_page("list", None, 1).await.unwrap().len(), 1);
    assert_eq!(cache.list_add("list", "c", base - ms(5)).await.unwrap(), 3);
    assert_eq!(page("list", None).await, [b, c.clone(), a.clone()]);
    assert_eq!(cache.list_add("list", "b", base + ms(2)).await.unwrap(), 3);
    assert_eq!(page("list", None).await, [c, a.clone(), member("b", base + ms(2))]);
    view.set_members(&format!("end_ms = {}", now() - 1), "c");
    assert_eq!(page("list", None).await, [a.clone(), member("b", base + ms(2))]);
    let ended = ListMember::new("", base - Duration::from_secs(2 * 3600));
    assert_eq!(page("list", Some(&ended)).await, [a, member("b", base + ms(2))]);
    assert_eq!(cache.list_add("list", "a", base).await.unwrap(), 2);
    cache.list_remove("list", &["a".to_owned(), "d".to_owned()]).await.unwrap();
    assert_eq!(page("list", None).await, [member("b", base + ms(2))]);
    assert_eq!(page("other list", None).await, [member("d", base)]);
}

/// The clock of the database may have been turned back, or another one may answer after a failover.
async fn a_touch_never_goes_back(cache: impl Cache, view: SqlView) {
    assert!(cache.insert("k", entry("x"), ending_in(10).0).await.unwrap());
    view.set(&format!("touched_ms = touched_ms + {HOUR}"), "k");
    let before = view.number("touched_ms", "k");
    assert!(cache.touch("k").await.unwrap());
    assert!(cache.get_and_touch("k", Duration::ZERO).await.unwrap().is_some());
    assert_eq!(view.number("touched_ms", "k"), before);
}

async fn a_repeated_insert_restarts_nothing(cache: impl Cache, view: SqlView) {
    let there = entry("x");
    assert!(cache.insert("k", there.clone(), ending_in(10).0).await.unwrap());
    view.set(&format!("touched_ms = touched_ms - {HOUR}"), "k");
    let before = view.number("touched_ms", "k");
    assert!(cache.insert("k", there, ending_in(10).0).await.unwrap());
    assert_eq!(view.number("touched_ms", "k"), before);
}

async fn what_has_ended_by_either_clock_is_absent_for_every_operation(cache: impl Cache, view: SqlView) {
    let expiry = ending_in(10).0;
    for ended in ["touched_ms = 1".to_owned(), format!("end_ms = {}", now() - 1)] {
        let there = entry("x");
        assert!(cache.insert("k", there.clone(), expiry).await.unwrap(), "over what has ended");
        assert_eq!(cache.get("k").await.unwrap(), Some(there.clone()));
        assert!(!cache.insert("k", entry("y"), expiry).await.unwrap(), "over what lives");
        view.set(&ended, "k");
        assert_eq!(cache.get("k").await.unwrap(), None, "{ended}");
        assert_eq!(cache.get_and_touch("k", Duration::ZERO).await.unwrap(), None, "{ended}");
        assert!(!cache.touch("k").await.unwrap(), "{ended}");
        let replaced = cache.replace("k", there.version, entry("y"), expiry).await.unwrap();
        assert_eq!(replaced, Replaced::Missing, "{ended}");
        assert_eq!(cache.delete("k", there.version).await.unwrap(), Deleted::Missing, "{ended}");
        assert_eq!(cache.get("k").await.unwrap(), None, "{ended}");
    }
}

async fn a_write_sets_idle_time_and_end_anew(cache: impl Cache, view: SqlView) {
    let ((first, first_end), (second, end)) = (ending_in(10), ending_in(9));
    let second = Expiry::new(Duration::from_secs(7 * 3600), second.end);
    let there = entry("x");
    assert!(cache.insert("k", there.clone(), first).await.unwrap());
    let started = view.number("touched_ms", "k");
    view.set(&format!("touched_ms = touched_ms - {HOUR}"), "k");
    assert!(cache.get("k").await.unwrap().is_some());
    assert!(cache.get_and_touch("k", Duration::from_secs(2 * 3600)).await.unwrap().is_some());
    assert_eq!(view.number("touched_ms", "k"), started - HOUR, "no restart was due");
    assert!(cache.get_and_touch("k", Duration::from_secs(1800)).await.unwrap().is_some());
    assert!(view.number("touched_ms", "k") >= started);
    view.set(&format!("touched_ms = touched_ms - {HOUR}"), "k");
    assert!(cache.touch("k").await.unwrap());
    assert!(view.number("touched_ms", "k") >= started);
    assert_eq!(view.number("end_ms", "k"), first_end);
    view.set(&format!("touched_ms = touched_ms - {HOUR}"), "k");
    assert_eq!(cache.replace("k", there.version, entry("y"), second).await.unwrap(), Replaced::Done);
    assert!(view.number("touched_ms", "k") >= started);
    assert_eq!((view.number("idle_ms", "k"), view.number("end_ms", "k")), (7 * HOUR, end));
    // An insert over what has ended as well.
    for (ended, expiry, idle, end) in [("end_ms = 1", first, 1_000, first_end), ("touched_ms = 1", second, 7, end)] {
        view.set(ended, "k");
        assert!(cache.insert("k", entry("z"), expiry).await.unwrap());
        assert!(view.number("touched_ms", "k") >= started);
        assert_eq!((view.number("idle_ms", "k"), view.number("end_ms", "k")), (idle * HOUR, end));
    }
}

/// Idle time goes by the moment at which the row is looked at, not by that at which the statement began.
async fn what_ended_while_an_operation_waited_stays_ended(cache: impl Cache + Clone, view: SqlView) {
    let idle = Duration::from_millis(600);
    let there = entry("x");
    assert!(cache.insert("k", there.clone(), Expiry::new(idle, ending_in(10).0.end)).await.unwrap());
    view.rows("BEGIN");
    view.set("end_ms = end_ms + 1", "k");
    let touched = tokio::spawn({
        let cache = cache.clone();
        async move { cache.touch("k").await.unwrap() }
    });
    let replaced = tokio::spawn({
        let cache = cache.clone();
        async move { cache.replace("k", there.version, entry("y"), ending_in(10).0).await.unwrap() }
    });
    tokio::time::sleep(idle + Duration::from_millis(100)).await;
    view.rows("COMMIT");
    assert!(!touched.await.unwrap());
    assert_eq!(replaced.await.unwrap(), Replaced::Missing);
    assert_eq!(cache.get("k").await.unwrap(), None);
}

/// Judged is what was asked and answered within that millisecond, by either clock.
async fn at_the_millisecond_of_its_end_an_entry_is_absent(cache: impl Cache, view: SqlView) {
    const ENOUGH: usize = 6;
    for ends in ["end_ms = AT", "touched_ms = AT - idle_ms"] {
        let mut judged = 0;
        // On a machine that is so busy that few are judged this shows little, and nothing is wrong with the cache.
        for _ in 0..100 {
            assert!(cache.insert("k", entry("x"), ending_in(10).0).await.unwrap());
            let at = now() + 4;
            view.set(&ends.replace("AT", &at.to_string()), "k");
            while now() < at {
                std::hint::spin_loop();
            }
            let absent = match judged % 2 {
                0 => cache.get("k").await.unwrap().is_none(),
                _ => cache.insert("k", entry("y"), ending_in(10).0).await.unwrap(),
            };
            if now() == at {
                assert!(absent, "{ends}: check {judged}");
                judged += 1;
            }
            view.set("end_ms = 1", "k");
            if judged == ENOUGH {
                break;
            }
        }
    }
}

async fn inserts_remove_what_has_ended_time_and_again(cache: impl Cache, view: SqlView) {
    let mut number = 0;
    for _ in 0..3 {
        assert!(cache.insert("over", entry("x"), ending_in(10).0).await.unwrap());
        view.set("end_ms = 1, due_ms = 1", "over");
        cache.list_add("over", "member", SystemTime::now() + Duration::from_secs(60)).await.unwrap();
        view.set_members("end_ms = 1", "member");
        let begun = Instant::now();
        while view.keys().iter().any(|key| key == "over") {
            assert!(begun.elapsed() < Duration::from_secs(20), "what has ended stays");
            for _ in 0..10 {
                number += 1;
                assert!(cache.insert(&format!("k{number}"), entry("x"), ending_in(10).0).await.unwrap());
            }
        }
    }
}

async fn calls_that_are_dropped_hold_nothing(cache: impl Cache, view: SqlView) {
    let there = entry("x");
    assert!(cache.insert("k", there.clone(), ending_in(10).0).await.unwrap());
    view.rows("BEGIN");
    view.set("end_ms = end_ms + 1", "k");
    // More of them than the cache has connections.
    for _ in 0..12 {
        let replace = cache.replace("k", there.version, entry("y"), ending_in(10).0);
        assert!(tokio::time::timeout(Duration::from_millis(30), replace).await.is_err());
    }
    let read = tokio::time::timeout(Duration::from_secs(10), cache.get("k")).await;
    assert_eq!(read.expect("a connection is free").unwrap(), Some(there));
    view.rows("COMMIT");
    view.set("end_ms = end_ms + 1", "k");
    // One of those may have been carried out all the same.
    let mut there = cache.get("k").await.unwrap().unwrap();
    while let Replaced::Conflict(newer) = cache.replace("k", there.version, entry("z"), ending_in(10).0).await.unwrap()
    {
        there = newer;
    }
}
