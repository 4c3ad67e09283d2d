//! Threads that compare passwords, so that no shard does: a bounded queue in front of a few threads.
//!
//! In: requests of the shards. Out: a verdict for each, through the function that the pool was made with. A full queue takes
//! nothing more, and the client is told that the server is busy. Threads begin with the first request: a broker without
//! users has none. Where the system allows it they are nicer than the shards.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{Request, Submitted, Verdict, Verifier};
use crate::identity::{ConnectionId, ShardId};

/// A bounded pool.
pub struct Pool {
    inner: Arc<Inner>,
    threads_max: usize,
    waiting_max: usize,
}

struct Inner {
    state: Mutex<State>,
    work: Condvar,
    answer: Box<dyn Fn(ShardId, ConnectionId, Verdict) + Send + Sync>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    threads: usize,
    idle: usize,
    is_over: bool,
}

impl Pool {
    /// `answer` is called on a thread of the pool.
    pub fn new(
        threads_max: usize,
        waiting_max: usize,
        answer: impl Fn(ShardId, ConnectionId, Verdict) + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::default(),
                work: Condvar::new(),
                answer: Box::new(answer),
            }),
            threads_max: threads_max.max(1),
            waiting_max: waiting_max.max(1),
        }
    }

    fn start_thread(&self) -> bool {
        let inner = Arc::clone(&self.inner);
        thread::Builder::new()
            .name("passwords".into())
            .spawn(move || inner.work())
            .is_ok()
    }
}

impl Verifier for Pool {
    fn submit(&self, request: Request) -> Submitted {
        let mut state = self.inner.state();
        if state.waiting.len() >= self.waiting_max {
            return Submitted::Full;
        }
        if state.idle <= state.waiting.len() && state.threads < self.threads_max {
            if self.start_thread() {
                state.threads += 1;
            } else if state.threads == 0 {
                return Submitted::Full;
            }
        }
        state.waiting.push_back(request);
        drop(state);
        self.inner.work.notify_one();
        Submitted::Later
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner.state().is_over = true;
        self.inner.work.notify_all();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        if cfg!(target_os = "linux") {
            // Of this thread alone; elsewhere it would be the process. Where it cannot be, the system shares fairly.
            let _ = rustix::process::nice(NICER);
        }
        let mut state = self.state();
        loop {
            if state.is_over {
                return;
            }
            let Some(request) = state.waiting.pop_front() else {
                state.idle += 1;
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            // Whatever happened, somebody waits, and it was not a right password.
            let verdict = catch_unwind(AssertUnwindSafe(|| request.verify()))
                .unwrap_or(Verdict::WrongPassword);
            (self.answer)(request.shard, request.connection, verdict);
            state = self.state();
        }
    }
}

const NICER: i32 = 5;
