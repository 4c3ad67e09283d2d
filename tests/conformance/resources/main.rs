//! Exhaustion: what a client can make the broker keep, wait for or work on has a bound, the answer at the bound is the one the manual
//! names, and no other client notices.
//!
//! Comes in: the attacks R1 to R20 of the catalogue as far as they concern this version, against brokers whose bounds are set so low
//! that a test can reach them. Goes out: answers in raw bytes, resident memory, descriptors and processor time of the process.
//! Receive Maximum (R9 and R10 of 5.0) is proven in `flow_control.rs`, inbound aliases (R11) in `bad_input`.

mod connections;
mod queues;
mod store;

use std::io::Read;

use harness::{Broker, Client, Connect, packet};

/// A broker, and a client on each of its shards that must not notice anything.
pub(crate) struct Scene {
    pub(crate) broker: Broker,
    canaries: Vec<Client>,
    beats: u32,
}

impl Scene {
    pub(crate) fn start(toml: &str) -> Self {
        // As many that every shard has one.
        const CANARIES: usize = 6;
        let mut scene = Self::without_canaries(toml);
        scene.canaries = (0..CANARIES)
            .map(|index| scene.subscriber(&format!("canary-{index}"), &format!("canary/{index}")))
            .collect();
        scene
    }

    /// Where a bound would be felt by them, too.
    pub(crate) fn without_canaries(toml: &str) -> Self {
        Self {
            broker: Broker::options().toml(toml).start(),
            canaries: Vec::new(),
            beats: 0,
        }
    }

    pub(crate) fn subscriber(&self, client_id: &str, filter: &str) -> Client {
        // However long it is silent.
        let connect = Connect::v4(client_id).keep_alive(0);
        let mut client = Client::connect(&self.broker, &connect);
        client.send(&packet("82", &format!("m1 s'{filter}' 00")));
        client.expect("90 03 m1 00");
        client
    }

    /// Every canary hears itself within a second.
    #[track_caller]
    pub(crate) fn echo(&mut self) {
        for (index, canary) in self.canaries.iter_mut().enumerate() {
            self.beats += 1;
            let publish = packet("30", &format!("s'canary/{index}' 'beat {}'", self.beats));
            canary.send(&publish);
            canary.expect_bytes(&publish);
        }
    }

    pub(crate) fn descriptors(&self) -> usize {
        let process_id = self.broker.process_id().unwrap();
        std::fs::read_dir(format!("/proc/{process_id}/fd"))
            .unwrap()
            .count()
    }

    /// User and system time of the process, a hundred ticks a second.
    pub(crate) fn processor_ticks(&self) -> u64 {
        let process_id = self.broker.process_id().unwrap();
        let mut stat = String::new();
        let mut file = std::fs::File::open(format!("/proc/{process_id}/stat")).unwrap();
        file.read_to_string(&mut stat).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = fields.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// The questions that every test ends with.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        assert!(self.broker.is_alive(), "the process ended");
        assert!(!self.broker.log().contains("panic"), "a panic in the log");
        self.echo();
    }
}

pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
