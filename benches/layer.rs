//! What the layer adds to a request: an axum router alone, within an eager layer and within a lazy one.
//!
//!     cargo bench --bench layer
//!     benches/instructions           # the same, counted instead of timed
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
    let mut app = App::new(around);
    bencher.bench_local(|| app.run(scenario));
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
        let mut app = App::new(around);
        for _ in 0..requests.parse().unwrap() {
            std::hint::black_box(app.run(scenario));
        }
        return;
    }
    divan::Divan::from_args().max_time(std::time::Duration::from_secs(1)).main();
}
