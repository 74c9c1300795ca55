//! Races of logouts, renewals and writes on a real Redis, from two processes at once.
//!
//! ```sh
//! cargo run --release --all-features --example soak -- races 100000
//! cargo run --release --all-features --example soak -- crowd
//! cargo run --release --all-features --example soak -- faults 600
//! cargo run --release --all-features --example soak -- fuzz 20
//! ```
//!
//! `races` gives each session to both processes, and each does something to it at the same moment: adds to a number, logs
//! in (a renewal), logs out, touches. Afterwards nothing may have come back, nothing may be lost, and no session may live
//! twice. `crowd` counts what 64 parallel writers of one session cost the server, from one process and from two.
//! `faults` runs a mixed load for so many seconds while its own server is killed, stopped, paused, and loses connections and
//! scripts: no session may be lost that no fault destroyed, and no cookie may open the session of another user.
//! `fuzz` runs each target in `fuzz/` for so many seconds; it needs `cargo install cargo-fuzz`, and the first build takes minutes.
//! `REDIS_URL` names a server for the first two; without it one is started and stopped again.
#![allow(dead_code, missing_docs, unreachable_pub)]
use std::{env, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

mod crowd;
mod faults;
mod other_process;
mod races;
#[path = "../../tests/support/redis_server.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[allow(clippy::duplicate_mod, reason = "the tests that mount this example have it as well")]
pub mod redis_server;
mod shared;

pub use faults::faults;
pub use races::races;
use shared::{Failure, store};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["worker", url] => worker(url).await,
        ["races", rest @ ..] => {
            let count = rest.first().map_or(Ok(100_000), |count| count.parse())?;
            with_server(async |url| {
                let report = races(&url, count, true).await?;
                println!("{report:?}");
                if report.is_clean() { Ok(()) } else { Err("a promise was broken".into()) }
            })
            .await
        }
        ["faults", rest @ ..] => {
            let seconds = rest.first().map_or(Ok(600), |seconds| seconds.parse())?;
            let report = faults(Duration::from_secs(seconds)).await?;
            println!("{report:?}");
            if report.is_clean() { Ok(()) } else { Err("a promise was broken".into()) }
        }
        ["fuzz", rest @ ..] => fuzz(rest.first().copied().unwrap_or("20")).await,
        ["crowd"] => with_server(async |url| crowd::crowd(&url).await).await,
        _ => Err("usage: soak races [count] | soak crowd | soak faults [seconds] | soak fuzz [seconds]".into()),
    }
}

async fn with_server(run: impl AsyncFnOnce(String) -> Result<(), Failure>) -> Result<(), Failure> {
    match env::var("REDIS_URL") {
        Ok(url) => run(url).await,
        Err(_) => {
            let server = redis_server::RedisServer::start();
            let url = server.url();
            run(url).await
        }
    }
}

async fn worker(url: &str) -> Result<(), Failure> {
    let store = store(url).await?;
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut output = tokio::io::stdout();
    while let Some(line) = input.next_line().await? {
        let mut words = line.split(' ');
        let seed = words.next().unwrap_or_default();
        let ids: Vec<String> = words.map(str::to_owned).collect();
        let said = match seed.strip_prefix("crowd:") {
            Some(first) => crowd::write_keys(&store, first.parse()?, &ids).await?,
            None => races::side(&store, seed.parse()?, 1, &ids).await,
        };
        output.write_all(format!("{}\n", said.join(" ")).as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

/// Runs each fuzz target for so many seconds. Needs `cargo install cargo-fuzz`; the first build takes minutes.
async fn fuzz(seconds: &str) -> Result<(), Failure> {
    let seconds: u64 = seconds.parse()?;
    let mut version = Command::new("cargo");
    version.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().await?.success() {
        return Err("cargo-fuzz is missing: `cargo install cargo-fuzz`".into());
    }
    for target in TARGETS {
        std::fs::create_dir_all(format!(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/{}"), target))?;
        let mut fuzz = Command::new("cargo");
        fuzz.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"));
        // The sanitizers are features of a nightly compiler; with this a stable one has them as well.
        fuzz.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", target]);
        fuzz.args([format!("corpus/{target}"), format!("seeds/{target}")]);
        let status = fuzz.args(["--", &format!("-max_total_time={seconds}")]).status().await?;
        if !status.success() {
            return Err(format!("{target}: {status}").into());
        }
    }
    Ok(())
}

const TARGETS: [&str; 2] = ["cookie_header", "record"];
