//! The sessions of a user, checked over all orders of the cache operations of two or three requests in processes of their own,
//! with clocks that differ, and with one fault: what is run is the crate itself, and `stateright` searches.
//!
//! A state is reached by running its requests anew, one operation after another. Two states are the same if the cache has the
//! same entries and lists and each request has had the same answers. Not covered: expiry, and limits above two.
//!
//! ```sh
//! CLOAKROOM_MODEL=full cargo test --release --test concurrency owner_model -- --nocapture
//! ```
use cloakroom::SessionLimitPolicy;

mod gated;
mod run;
mod scenario;
mod search;

use scenario::{Does, Scenario};
use search::{check_all, is_full};

const NEW: [Does; 3] = [Does::LogIn, Does::VisitorLogsIn, Does::VisitorIsGivenTheOwner];

/// Clocks in this order and in the other one, and behind a session that is there already.
const CLOCKS: [[u64; 3]; 3] = [[10, 13, 16], [16, 13, 10], [13, 10, 16]];

fn scenario(does: &[Does], clocks: [u64; 3], before: usize, limit: usize) -> Scenario {
    let policy = SessionLimitPolicy::EndOldest;
    Scenario { does: does.to_vec(), clocks: clocks.to_vec(), before, limit, policy, faults: 0 }
}

/// All of them, or in a run of all tests every `nth` of those that take least.
fn some(all: Vec<Scenario>, nth: usize) -> Vec<Scenario> {
    if is_full() {
        return all;
    }
    all.into_iter().filter(|scenario| scenario.limit != 2).step_by(nth).collect()
}

fn with_faults(scenarios: Vec<Scenario>) -> Vec<Scenario> {
    scenarios.into_iter().map(|scenario| Scenario { faults: 1, ..scenario }).collect()
}

fn two_logins() -> Vec<Scenario> {
    let mut all = Vec::new();
    for one in NEW.into_iter().chain([Does::LogInAgain]) {
        for other in NEW {
            for clocks in &CLOCKS[..2] {
                for (before, limit) in [(1, 1), (2, 2)] {
                    all.push(scenario(&[one, other], *clocks, before, limit));
                }
            }
        }
    }
    all
}

fn a_login_beside_a_renewal() -> Vec<Scenario> {
    let mut all = Vec::new();
    for other in NEW.into_iter().chain([Does::LogInAgain]) {
        for (before, limit) in [(1, 1), (2, 2), (2, 1)] {
            all.push(scenario(&[Does::Renew, other], CLOCKS[0], before, limit));
        }
    }
    all
}

fn an_end_beside(others: &[Does]) -> Vec<Scenario> {
    let mut all = Vec::new();
    for end in [Does::RevokeAll, Does::LogOut] {
        for other in others {
            all.push(scenario(&[end, *other], CLOCKS[0], 2, 100));
            all.push(scenario(&[end, *other], CLOCKS[1], 1, 1));
        }
    }
    all
}

#[test]
fn the_newest_remain_of_two_logins() {
    check_all("two logins", some(two_logins(), 19));
}

#[test]
fn the_newest_remain_of_a_login_beside_a_renewal() {
    check_all("a login beside a renewal", some(a_login_beside_a_renewal(), 3));
}

#[test]
fn revoke_all_and_a_logout_miss_nothing() {
    let others = [Does::Renew, Does::LogInAgain, Does::LogIn, Does::VisitorLogsIn, Does::VisitorIsGivenTheOwner];
    check_all("an end beside another request", some(an_end_beside(&others), 4));
}

#[test]
fn refusing_never_exceeds_the_limit_and_ends_nothing() {
    let refuse = |scenario: Scenario| Scenario { policy: SessionLimitPolicy::Refuse, ..scenario };
    let all = two_logins().into_iter().chain(a_login_beside_a_renewal()).map(refuse).collect();
    check_all("refusing", some(all, 8));
}

#[test]
fn a_fault_leaves_more_and_never_fewer() {
    let ends = an_end_beside(&[Does::Renew, Does::LogIn]);
    let all = a_login_beside_a_renewal().into_iter().chain(ends).chain(two_logins());
    check_all("with a fault", with_faults(some(all.collect(), 40)));
}

#[test]
fn three_at_once() {
    if !is_full() {
        return;
    }
    use Does::{LogIn, LogInAgain, LogOut, Renew, RevokeAll, VisitorLogsIn};
    let mut all = Vec::new();
    for clocks in CLOCKS {
        for limit in [1, 2] {
            all.push(scenario(&[LogIn, LogIn, LogIn], clocks, 1, limit));
            all.push(scenario(&[LogIn, VisitorLogsIn, Renew], clocks, 1, limit));
            all.push(scenario(&[LogIn, LogInAgain, Renew], clocks, 1, limit));
        }
    }
    for three in [[RevokeAll, Renew, LogIn], [LogOut, Renew, LogInAgain], [RevokeAll, LogInAgain, Renew]] {
        all.push(scenario(&three, CLOCKS[0], 1, 100));
    }
    check_all("three at once", all);
}
