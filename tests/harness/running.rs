//! Any program that is started and watched by what it says on standard error: our own in unusual circumstances, and Mosquitto.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::PATIENCE;

/// A process and what it says on standard error; killed when it goes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    log: String,
    seen: usize,
}

impl Running {
    /// Starts it. Its standard input and output are those of `command`, its standard error is read here.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        command.stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (sender, lines) = channel();
        // Ends with the process, which holds the other end of the pipe.
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            log: String::new(),
            seen: 0,
        }
    }

    /// Starts it with nothing to read and nowhere to print.
    #[track_caller]
    pub fn alone(command: &mut Command) -> Self {
        Self::of(command.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What was waited for, and what came before it.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// Waits for words behind those that were waited for before; gives the whole log.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) -> String {
        loop {
            if let Some(place) = self.log[self.seen..].find(words) {
                self.seen += place + words.len();
                return self.log.clone();
            }
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.log.push_str(&line);
                    self.log.push('\n');
                }
                Err(_) => panic!("{words} is missing in:\n{}", self.log),
            }
        }
    }

    /// Waits until all of these are somewhere in the log, in whatever order.
    #[track_caller]
    pub fn wait_for_each<'a>(&mut self, all: impl IntoIterator<Item = &'a str>) {
        for words in all {
            self.seen = 0;
            self.wait_for(words);
        }
        self.seen = self.log.len();
    }

    /// Sends a signal by the name that `kill` knows it by, such as `-HUP`.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        let id = self.id().to_string();
        let done = Command::new("kill").args([signal, &id]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill {signal}");
    }

    /// Waits for its end, and gives that and all that it has said.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, String) {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.log.push_str(&line);
            self.log.push('\n');
        }
        // The end of its standard error is its end, all but; what hangs is killed with the value.
        let mut ended = None;
        crate::wait_until("the end of a process", PATIENCE, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        });
        let log = std::mem::take(&mut self.log);
        (ended.expect("it was waited for"), log)
    }

    /// SIGTERM, and what comes of it.
    #[track_caller]
    pub fn terminate(self) -> (ExitStatus, String) {
        self.signal("-TERM");
        self.wait()
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
