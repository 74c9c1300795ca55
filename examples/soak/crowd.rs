//! What many parallel writers of one session cost the server.
use std::sync::Arc;

use cloakroom::{Session, SessionError};
use tokio::task::JoinSet;

use super::{
    other_process::OtherProcess,
    servers::store,
    shared::{Failure, Store},
};

/// 32 writers of one session at once, each with a key of its own.
pub async fn write_keys(store: &Store, first: usize, ids: &[String]) -> Result<Vec<String>, Failure> {
    let id = ids.first().ok_or("no session")?;
    let together = Arc::new(tokio::sync::Barrier::new(32));
    let mut tasks = JoinSet::new();
    for number in first..first + 32 {
        let (store, id, together) = (store.clone(), id.clone(), Arc::clone(&together));
        tasks.spawn(async move {
            let session = store.load(&id).await?.ok_or(SessionError::Gone)?;
            session.set(format!("key {number}"), number)?;
            together.wait().await;
            session.commit().await
        });
    }
    for done in tasks.join_all().await {
        done?;
    }
    Ok(vec!["+".into()])
}

pub async fn crowd(url: &str) -> Result<(), Failure> {
    let here = store(url).await?;
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    for processes in [1, 2] {
        let mut other = OtherProcess::start(url).await?;
        let (mut commands, mut keys) = (0, 0);
        const ROUNDS: usize = 50;
        for _ in 0..ROUNDS {
            let id = here.save(&Session::new()).await?.as_ref().to_owned();
            let ids = [id.clone()];
            let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut connection).await?;
            if processes == 1 {
                tokio::try_join!(write_keys(&here, 0, &ids), write_keys(&here, 32, &ids))?;
            } else {
                tokio::try_join!(write_keys(&here, 0, &ids), other.run("crowd:32", &ids))?;
            }
            let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await?;
            // What scripts call inside of the server is counted there as well; loading was one `GET` each.
            commands += 64;
            for line in stats.lines().filter(|line| line.starts_with("cmdstat_evalsha:")) {
                if let Some(calls) = line.split("calls=").nth(1).and_then(|rest| rest.split(',').next()) {
                    commands += calls.parse::<usize>()?;
                }
            }
            keys += here.load(&id).await?.map_or(0, |session| session.len());
        }
        let each = commands as f64 / (64 * ROUNDS) as f64;
        println!("{processes} process(es): {each:.2} commands a writer, {keys} of {} keys there", 64 * ROUNDS);
    }
    Ok(())
}
