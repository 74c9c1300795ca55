//! The search over all orders of operations, by `stateright`.
use std::hash::{Hash, Hasher};

use stateright::{Checker, Model, Property};

use super::{
    run::Step,
    scenario::{OperationOutcome, Scenario},
};

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) path: Vec<Step>,
    pub(super) digest: u64,
    pub(super) next: Vec<Step>,
    pub(super) wrong: Option<&'static str>,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl Scenario {
    /// Runs the requests anew, up to here.
    fn replay(&self, path: Vec<Step>) -> Node {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut run = self.start().await;
            for step in &path {
                run.step(*step).await;
            }
            let ready = run.ready();
            let faults = path.iter().filter(|(_, outcome)| *outcome != OperationOutcome::Done).count();
            let mut next = Vec::new();
            for (number, reads) in &ready {
                next.push((*number, OperationOutcome::Done));
                if faults < self.faults {
                    next.push((*number, OperationOutcome::Refused));
                    next.push((*number, OperationOutcome::Crash));
                    if !reads {
                        next.push((*number, OperationOutcome::Lost));
                    }
                }
            }
            let wrong = if ready.is_empty() { run.verdict(self).await } else { None };
            Node { digest: run.digest().await, path, next, wrong }
        })
    }
}

impl Model for Scenario {
    type State = Node;
    type Action = Step;

    fn init_states(&self) -> Vec<Node> {
        vec![self.replay(Vec::new())]
    }

    fn actions(&self, state: &Node, actions: &mut Vec<Step>) {
        actions.extend(&state.next);
    }

    fn next_state(&self, last: &Node, action: Step) -> Option<Node> {
        Some(self.replay(last.path.iter().copied().chain([action]).collect()))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is promised", |_, state: &Node| state.wrong.is_none()),
            Property::sometimes("all are done", |_, state: &Node| state.next.is_empty()),
        ]
    }
}

/// Searches all states; returns how many there are.
pub(super) fn check(scenario: Scenario) -> usize {
    let checker = scenario.clone().checker().threads(2).spawn_bfs().join();
    if let Some(path) = checker.discovery("what is promised") {
        let last = path.into_states().pop().unwrap();
        panic!("{:?}: {scenario:?}\n{:?}", last.wrong, last.path);
    }
    assert!(checker.discovery("all are done").is_some());
    checker.unique_state_count()
}

pub(super) fn check_all(name: &str, all: impl IntoIterator<Item = Scenario>) {
    let (mut scenarios, mut states) = (0, 0);
    for scenario in all {
        scenarios += 1;
        let begun = std::time::Instant::now();
        let name = format!("{scenario:?}");
        let found = check(scenario);
        if std::env::var("CLOAKROOM_MODEL").is_ok() {
            println!("{found} {:?} {name}", begun.elapsed());
        }
        states += found;
    }
    println!("{name}: {states} states of {scenarios} scenarios");
    assert!(states > 40 * scenarios, "{states}");
}

pub(super) fn is_full() -> bool {
    std::env::var("CLOAKROOM_MODEL").is_ok_and(|value| value == "full")
}
