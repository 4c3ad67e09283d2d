//! Bad input: whatever a peer sends, its own connection ends as the standard says, nothing is allocated because of a claim, and no
//! other client notices.
//!
//! Comes in: packets that must not be sent, before CONNECT, after a 3.1.1 and after a 5.0 CONNECT, in raw bytes. Goes out: the exact
//! answer (nothing before the close, or the reason code in a DISCONNECT or CONNACK). Every test ends with the same questions: does the
//! process live, do other clients still echo within a second, did nothing reach a subscriber to `#`, is there no panic in the log.
//! Where a byte-exact exchange and the standard's letter differ, the exchange decides the code.
//!
//! Environment: `NIGHTJAR_TEST_REJECTED` is the number of rejected packets in the leak test (default 20,000).

mod fields;
mod framing;
mod load;

use harness::{Broker, Client, Connect, Options, bytes, hex, packet};

// Answers: what may stand before the close.
pub(crate) const SILENT: &str = "";
pub(crate) const MALFORMED: &str = "e0 01 81";
pub(crate) const PROTOCOL_ERROR: &str = "e0 01 82";
pub(crate) const CONNACK_MALFORMED: &str = "20 03 00 81 00";
pub(crate) const CONNACK_PROTOCOL_ERROR: &str = "20 03 00 82 00";
pub(crate) const CONNACK_CLIENT_ID: &str = "20 03 00 85 00";

/// A broker, clients that must not notice anything, and what went wrong so far.
pub(crate) struct Scene {
    broker: Broker,
    canaries: Vec<Client>,
    /// Subscribed to everything: it sees the canaries and nothing else.
    watcher: Client,
    beats: u32,
    failures: Vec<String>,
    client_ids: u32,
}

impl Scene {
    pub(crate) fn start() -> Self {
        Self::start_with(Broker::options(), "#")
    }

    /// For tests whose own messages are valid: the watcher sees only the canaries.
    pub(crate) fn start_quiet() -> Self {
        Self::start_with(Broker::options(), "canary/#")
    }

    pub(crate) fn start_with(options: Options, watched: &str) -> Self {
        // As many that every shard has one.
        const CANARIES: usize = 8;
        let broker = options.start();
        // However long they are silent.
        let connect = |client_id: &str| {
            let connect = Connect::v4(client_id).keep_alive(0);
            Client::connect(&broker, &connect)
        };
        let canaries = (0..CANARIES).map(|index| {
            let mut canary = connect(&format!("canary-{index}"));
            canary.send(&packet("82", &format!("m1 s'canary/{index}' 00")));
            canary.expect("90 03 00 01 00");
            canary
        });
        let canaries = canaries.collect();
        let mut watcher = connect("watcher");
        watcher.send(&packet("82", &format!("m1 s'{watched}' 00")));
        watcher.expect("90 03 00 01 00");
        Self {
            broker,
            canaries,
            watcher,
            beats: 0,
            failures: Vec::new(),
            client_ids: 0,
        }
    }

    /// On a new connection.
    pub(crate) fn first(&mut self, what: &str, sent: &[u8], answers: &[&str]) {
        let client = Client::open(&self.broker);
        self.send_and_check(&format!("before CONNECT: {what}"), client, sent, answers);
    }

    /// After a 3.1.1 CONNECT.
    pub(crate) fn v4(&mut self, what: &str, sent: &[u8], answers: &[&str]) {
        let client = self.connected_v4();
        self.send_and_check(&format!("3.1.1: {what}"), client, sent, answers);
    }

    /// After a 5.0 CONNECT.
    pub(crate) fn v5(&mut self, what: &str, sent: &[u8], answers: &[&str]) {
        let client = self.connected_v5();
        self.send_and_check(&format!("5.0: {what}"), client, sent, answers);
    }

    pub(crate) fn connected_v4(&mut self) -> Client {
        self.client_ids += 1;
        Client::connect_v4(&self.broker, &format!("bad-{}", self.client_ids))
    }

    pub(crate) fn connected_v5(&mut self) -> Client {
        self.client_ids += 1;
        Client::connect_v5(&self.broker, &format!("bad-{}", self.client_ids), "")
    }

    pub(crate) fn send_and_check(
        &mut self,
        what: &str,
        mut client: Client,
        sent: &[u8],
        answers: &[&str],
    ) {
        client.send(sent);
        self.check_close(what, client, sent, answers);
    }

    /// Exactly one of `answers`, then the close.
    pub(crate) fn check_close(
        &mut self,
        what: &str,
        mut client: Client,
        sent: &[u8],
        answers: &[&str],
    ) {
        let received = client.try_receive_to_close();
        let is_right = received
            .as_ref()
            .is_ok_and(|received| answers.iter().any(|answer| *received == bytes(answer)));
        if !is_right {
            let received = match received {
                Ok(received) => format!("[{}] and the close", hex(&received)),
                Err(unexpected) => format!("[{unexpected}], no close"),
            };
            let answers = answers.join("] or [");
            self.failures.push(format!("{what}\n  sent     {}\n  expected [{answers}] and the close\n  received {received}", hex(sent)));
        }
    }

    /// Every canary hears itself within a second, and the watcher hears the canaries and nothing else.
    #[track_caller]
    pub(crate) fn echo(&mut self) {
        for (index, canary) in self.canaries.iter_mut().enumerate() {
            self.beats += 1;
            let publish = packet("30", &format!("s'canary/{index}' 'beat {}'", self.beats));
            canary.send(&publish);
            canary.expect_bytes(&publish);
            self.watcher.expect_bytes(&publish);
        }
    }

    /// The questions that every test ends with.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        assert!(self.broker.is_alive(), "the process ended");
        assert!(
            !self.broker.log().contains("panicked"),
            "a panic in the log"
        );
        self.report();
        self.echo();
    }

    #[track_caller]
    pub(crate) fn report(&self) {
        let shown: Vec<&str> = self.failures.iter().take(40).map(String::as_str).collect();
        assert!(
            shown.is_empty(),
            "{} went otherwise:\n{}",
            self.failures.len(),
            shown.join("\n")
        );
    }
}
