//! What the layer adds to a request: an axum router alone, within an eager layer and within a lazy one.
//!
//!     cargo bench --bench layer
//!     benches/instructions                                  # the same, counted instead of timed
//!     ENTRIES=10000000 cargo bench --bench layer -- growth  # with so many live sessions; 5 GB
//!
//! | scenario | the request | its handler |
//! | --- | --- | --- |
//! | anon | no cookie | leaves the session alone |
//! | idle | a live cookie | leaves the session alone |
//! | read | a live cookie | reads one number |
//! | write | a live cookie | reads one number and writes it back plus one |
//! | new | no cookie | writes three values into a new session |
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod common;

use common::{App, Around, SCENARIOS};
use divan::Bencher;

/// For the sessions that `new` starts.
const ROOM: usize = 1_000_000;

#[divan::bench(args = SCENARIOS)]
fn bare(bencher: Bencher<'_, '_>, scenario: &str) {
    run(bencher, Around::Bare, scenario);
}

#[divan::bench(args = SCENARIOS)]
fn eager(bencher: Bencher<'_, '_>, scenario: &str) {
    run(bencher, Around::Eager, scenario);
}

#[divan::bench(args = SCENARIOS)]
fn lazy(bencher: Bencher<'_, '_>, scenario: &str) {
    run(bencher, Around::Lazy, scenario);
}

fn run(bencher: Bencher<'_, '_>, around: Around, scenario: &str) {
    let mut app = App::new(around, ROOM);
    bencher.bench_local(|| app.run(scenario));
}

/// A cookie of any of so many live sessions, and a handler that reads a number.
#[divan::bench(args = sizes())]
fn growth(bencher: Bencher<'_, '_>, sessions: usize) {
    let mut app = App::new(Around::Eager, sessions + 1);
    let step = sessions.div_ceil(100_000);
    let cookies: Vec<_> = (0..sessions).filter_map(|n| Some(app.start()).filter(|_| n % step == 0)).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        // In no order: a prime is as good as any.
        at = (at + 7919) % cookies.len();
        app.call("/read", Some(&cookies[at]))
    });
}

fn sizes() -> Vec<usize> {
    let more = std::env::var("ENTRIES").ok().and_then(|text| text.parse().ok());
    [1000, 1_000_000].into_iter().chain(more).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // For `benches/instructions`: so many requests and nothing else.
    if let [one, around, scenario, requests] = args.as_slice()
        && one == "one"
    {
        let around = match around.as_str() {
            "bare" => Around::Bare,
            "eager" => Around::Eager,
            "lazy" => Around::Lazy,
            other => panic!("bare, eager or lazy, not {other}"),
        };
        let mut app = App::new(around, ROOM);
        for _ in 0..requests.parse().unwrap() {
            std::hint::black_box(app.run(scenario));
        }
        return;
    }
    divan::Divan::from_args().sample_size(100).sample_count(200).main();
}
