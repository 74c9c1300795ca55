//! The sentences of [`Cache`]'s contract, each as a check of its own.
#![allow(clippy::panic, reason = "a broken sentence is what this is to panic at")]
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use self::trial::{CheckOutcome, Trial};
use crate::{Clock, cache::Cache};

mod lists;
mod time;
mod trial;
mod writes;

/// Checks a cache against every sentence of [`Cache`]'s contract, and panics with the sentence that it breaks.
///
/// `make` gives a cache for each of the checks. They use keys of their own, so that it may be the same one again.
/// Give the `clock` that the cache was built with if it is a manual one; without one the checks wait for real, some
/// seconds in all: what an operation finds is judged only if it was answered in time, and else the check begins again with
/// longer times. So a busy machine makes no sentence fail. Needs a Tokio runtime with its timer.
///
/// # Panics
/// At the first sentence that does not hold, when a method returns an error, or when operations take seconds.
///
/// # Example
/// ```
/// # async fn run<C: cloakroom::Cache + Clone>(my_cache: C) {
/// cloakroom::testing::cache_contract(|| async { my_cache.clone() }, None).await;
/// # }
/// ```
pub async fn cache_contract<C, F, Fut>(make: F, clock: Option<Clock>)
where
    C: Cache,
    F: Fn() -> Fut,
    Fut: Future<Output = C>,
{
    let manual = clock.is_some();
    let mut waiting: Vec<Check> = Vec::new();
    macro_rules! checks {
        ($($module:ident::$check:ident),* $(,)?) => {
            $({
                let trial = Trial::new(make().await, clock.clone());
                let check: Check = Box::pin(async move {
                    while !$module::$check(&trial).await.judged() {
                        trial.slow_down();
                    }
                    trial.rewind();
                });
                if manual { check.await } else { waiting.push(check) }
            })*
        };
    }
    checks!(
        writes::an_absent_key_is_no_error,
        writes::what_was_inserted_is_read,
        writes::any_bytes_come_back,
        writes::any_key_is_a_key_of_its_own,
        writes::insert_leaves_a_live_entry_as_it_is,
        writes::replace_writes_over_the_expected_version_only,
        writes::delete_removes_the_expected_version_only,
        writes::a_repeated_insert_is_done,
        writes::a_repeated_replace_is_done_and_changes_nothing,
        writes::one_of_many_inserts_wins,
        writes::no_increment_is_lost,
        writes::one_of_many_deletes_wins,
        writes::readers_see_value_and_version_together,
        writes::a_ping_is_answered,
    );
    for check in std::mem::take(&mut waiting) {
        check.await;
    }
    checks!(
        time::an_idle_entry_ends,
        time::an_entry_ends_at_its_end,
        time::a_time_that_is_over_writes_nothing_readable,
        time::an_ended_entry_is_absent_for_every_method,
        time::extreme_times_are_no_error,
        time::touch_restarts_the_idle_time,
        time::touch_never_passes_the_end,
        time::touch_changes_neither_data_nor_version,
        time::get_and_touch_restarts_the_idle_time,
        time::get_and_touch_waits_for_after,
        time::get_and_touch_never_passes_the_end,
        time::a_read_restarts_nothing,
        time::replace_writes_the_expiry,
        lists::an_absent_list_is_empty,
        lists::members_are_sorted_by_their_end,
        lists::adding_a_member_again_moves_its_end_later_only,
        lists::adding_returns_how_many_members_there_are,
        lists::pages_have_every_member_once,
        lists::a_page_begins_behind_a_member_that_is_gone,
        lists::removed_members_are_gone,
        lists::members_end,
        lists::a_list_lives_as_long_as_its_longest_member,
        lists::no_added_member_is_lost,
    );
    all(waiting).await;
}

type Check = Pin<Box<dyn Future<Output = ()>>>;

/// Checks that wait for real do so together.
async fn all(mut checks: Vec<Check>) {
    poll_fn(|context| {
        checks.retain_mut(|check| check.as_mut().poll(context).is_pending());
        if checks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
