//! The other process: started by this one, told by lines what to do.
use std::{env, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{
    Failure,
    crowd::write_keys,
    races::{Said, side},
    servers::store,
};

/// The other process.
pub struct Worker {
    /// Ends with this process: it reads the end of its input.
    child: Child,
    pub input: ChildStdin,
    pub output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    pub async fn start(url: &str) -> Result<Self, Failure> {
        let mut child = Command::new(env::current_exe()?)
            .args(["worker", url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("the other process has no pipes".into()) };
        Ok(Self { child, input, output: BufReader::new(output).lines() })
    }

    pub async fn run(&mut self, seed: u64, ids: &[String]) -> Result<Vec<Said>, Failure> {
        let line = format!("{seed} {}\n", ids.join(" "));
        self.input.write_all(line.as_bytes()).await?;
        self.input.flush().await?;
        let answer = self.output.next_line().await?.ok_or("the other process has ended")?;
        Ok(answer.split(' ').map(str::to_owned).collect())
    }
}

pub async fn worker(url: &str) -> Result<(), Failure> {
    let store = store(url).await?;
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut output = tokio::io::stdout();
    while let Some(line) = input.next_line().await? {
        let mut words = line.split(' ');
        let seed = words.next().unwrap_or_default();
        let ids: Vec<String> = words.map(str::to_owned).collect();
        let said = match seed.strip_prefix("crowd:") {
            Some(first) => write_keys(&store, first.parse()?, &ids).await?,
            None => side(&store, seed.parse()?, 1, &ids).await,
        };
        output.write_all(format!("{}\n", said.join(" ")).as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}
