//! Races of logouts, renewals and writes on a real server, from two processes at once; faults; sweeps.
//!
//! ```sh
//! cargo run --release --all-features --example soak -- races 100000           # on Redis
//! cargo run --release --all-features --example soak -- races 100000 postgres  # or mysql, or sqlite
//! cargo run --release --all-features --example soak -- crowd
//! cargo run --release --all-features --example soak -- faults 600
//! cargo run --release --all-features --example soak -- sweep 1000000 postgres # or sqlite
//! cargo run --release --all-features --example soak -- fuzz 20
//! ```
//!
//! `races` gives each session to both processes, and each does something to it at the same moment: adds to a number, logs
//! in (a renewal), logs out, touches. Afterwards nothing may have come back, nothing may be lost, and no session may live
//! twice. `crowd` counts what 64 parallel writers of one session cost the server, from one process and from two.
//! `faults` runs a mixed load for so many seconds while its own server is killed, stopped, paused, and loses connections and
//! scripts: no session may be lost that no fault destroyed, and no request may see another visitor's. `sweep` measures
//! requests while so many rows that ended are removed, and the same requests without that.
//!
//! `REDIS_URL`, `DATABASE_URL` and `MYSQL_URL` name servers for the races and the sweep; without them servers are started
//! and stopped again. SQLite writes a file under the temporary directory.
#![allow(dead_code, missing_docs, unreachable_pub)]
use std::{env, error::Error, time::Duration};

use cloakroom::{BoxedCache, SessionStore};

mod crowd;
mod faults;
mod fuzz;
mod races;
mod servers;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sweep;
mod worker;

pub use self::{faults::faults, races::races, servers::redis_server};

type Failure = Box<dyn Error + Send + Sync>;
type Store = SessionStore<BoxedCache>;

const USAGE: &str = "usage: soak races [count] [redis|postgres|mysql|sqlite] | soak crowd | soak faults [seconds] \
                     | soak sweep [rows] [postgres|sqlite] | soak fuzz [seconds]";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["worker", url] => worker::worker(url).await,
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
        #[cfg(any(feature = "postgres", feature = "sqlite"))]
        ["sweep", rest @ ..] => {
            let server = servers::Server::start(rest.get(1).copied().unwrap_or("postgres"))?;
            sweep::sweep(server.url(), number(rest, 1_000_000)?).await
        }
        ["fuzz", rest @ ..] => fuzz::fuzz(number(rest, 20)? as u64).await,
        ["crowd"] => crowd::crowd(servers::Server::start("redis")?.url()).await,
        _ => Err(USAGE.into()),
    }
}

/// The first word, as a number.
fn number(words: &[&str], otherwise: usize) -> Result<usize, Failure> {
    Ok(words.first().map_or(Ok(otherwise), |word| word.parse())?)
}

/// The finalizer of splitmix64.
pub fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
