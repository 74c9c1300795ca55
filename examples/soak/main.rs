//! Races of logouts, renewals and writes on a real server, from two processes at once; faults; sweeps.
//!
//! ```sh
//! cargo run --release --all-features --example soak -- races 100000           # on Redis
//! cargo run --release --all-features --example soak -- races 100000 postgres  # or mysql, or sqlite
//! cargo run --release --all-features --example soak -- crowd
//! cargo run --release --all-features --example soak -- faults 600
//! cargo run --release --all-features --example soak -- sweep 1000000 postgres # or mysql (MariaDB), or sqlite
//! cargo run --release --all-features --example soak -- flood 100000
//! cargo run --release --all-features --example soak -- fuzz 20
//! ```
//!
//! `races` gives each session to both processes, and each does something to it at the same moment: adds to a number, logs
//! in (a renewal), logs out, touches. Afterwards nothing may have come back, nothing may be lost, and no session may live
//! twice. `crowd` counts what 64 parallel writers of one session cost the server, from one process and from two.
//! `faults` runs a mixed load for so many seconds while its own server is killed, stopped, paused, and loses connections and
//! scripts: no session may be lost that no fault destroyed, and no cookie may open the session of another user. `sweep` measures
//! requests while so many rows that ended are removed, and the same requests without that.
//! `flood` measures what requests of visitors without a session cost, by their kind, and what a full cache leaves to users.
//! `fuzz` runs each target in `fuzz/` for so many seconds; it needs `cargo install cargo-fuzz`, and the first build takes minutes.
//!
//! `REDIS_URL`, `DATABASE_URL` and `MYSQL_URL` name servers for the races and the sweep; without them servers are started
//! and stopped again. SQLite writes a file under the temporary directory.
#![allow(dead_code, missing_docs, unreachable_pub)]
use std::{env, time::Duration};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

mod crowd;
mod faults;
mod flood;
mod fuzz;
mod other_process;
mod races;
mod servers;
mod shared;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod sweep;

pub use self::{faults::faults, races::races, servers::redis_server};
use shared::Failure;

const USAGE: &str = "usage: soak races [count] [redis|postgres|mysql|sqlite] | soak crowd | soak faults [seconds] \
                     | soak sweep [rows] [postgres|mysql|sqlite] | soak flood [requests] | soak fuzz [seconds]";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["worker", url] => worker(url).await,
        ["races", rest @ ..] => {
            let server = servers::Server::start(rest.get(1).copied().unwrap_or("redis"))?;
            let report = races(server.url(), number(rest, 100_000)?, true).await?;
            println!("{report:?}");
            if report.is_clean() { Ok(()) } else { Err("a promise was broken".into()) }
        }
        ["faults", rest @ ..] => {
            let report = faults(Duration::from_secs(number(rest, 600)? as u64)).await?;
            println!("{report:?}");
            if report.is_clean() { Ok(()) } else { Err("a promise was broken".into()) }
        }
        #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
        ["sweep", rest @ ..] => {
            let server = servers::Server::start(rest.get(1).copied().unwrap_or("postgres"))?;
            sweep::sweep(server.url(), number(rest, 1_000_000)?).await
        }
        ["fuzz", rest @ ..] => fuzz::fuzz(number(rest, 20)? as u64).await,
        ["flood", rest @ ..] => flood::flood(number(rest, 100_000)?).await,
        ["crowd"] => crowd::crowd(servers::Server::start("redis")?.url()).await,
        _ => Err(USAGE.into()),
    }
}

/// The first word, as a number.
fn number(words: &[&str], otherwise: usize) -> Result<usize, Failure> {
    Ok(words.first().map_or(Ok(otherwise), |word| word.parse())?)
}

/// The other process: does what it is told by lines, until there are no more.
async fn worker(url: &str) -> Result<(), Failure> {
    let store = servers::store(url).await?;
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
