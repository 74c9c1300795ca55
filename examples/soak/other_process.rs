//! This program once more, as a process that does its side of a race.
use std::{env, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::shared::Failure;

/// The other process.
pub struct OtherProcess {
    /// Ends with this process: it reads the end of its input.
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl OtherProcess {
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

    /// What to do, a space, and the IDs of sessions: what came of each.
    pub async fn run(&mut self, what: impl std::fmt::Display, ids: &[String]) -> Result<Vec<String>, Failure> {
        let line = format!("{what} {}\n", ids.join(" "));
        self.input.write_all(line.as_bytes()).await?;
        self.input.flush().await?;
        let answer = self.output.next_line().await?.ok_or("the other process has ended")?;
        Ok(answer.split(' ').map(str::to_owned).collect())
    }
}
