//! A seeded life of an engine: operations as a broker makes them, batches that wait, power cuts, a medium that fails and works
//! again, and after each of them a comparison with the reference model.

use super::*;

/// A seeded life of an engine, compared with [`Image`] after every step and every power cut.
pub fn random_contract<E: Subject>(make: impl Fn() -> E, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        live(make(), seed);
    }
}

fn live<E: Subject>(mut engine: E, seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new();
    // What the store may be: the first is durable, each further one has one batch more that is not.
    let mut possible = vec![(0, Image::new())];
    engine.hold();
    for step in 0..STEPS {
        let context = format!("seed {seed}, step {step}");
        match random.below(20) {
            0 => {
                engine = reopened(engine);
                engine.hold();
                let survived = possible
                    .iter()
                    .position(|(_, image)| is_same(&engine, image));
                let survived = survived.unwrap_or_else(|| {
                    check_same(&engine, &possible[0].1, &context);
                    unreachable!("what is durable is one of the possible states")
                });
                // What survived is durable from here on.
                possible = vec![possible.swap_remove(survived)];
                world.latest = possible[0].1.clone();
            }
            1..=5 => {
                let settled = random.below(possible.len() as u64) as usize;
                if settled > 0 {
                    engine.settle(possible[settled].0);
                    possible.drain(..settled);
                }
                if random.below(2) == 0 {
                    engine.catch_up();
                    check_same(&engine, &possible[0].1, &context);
                }
            }
            6 if possible.len() > 1 => {
                engine.fail();
                let status = engine.status();
                assert!(
                    status.covers(possible[0].0) && !status.covers(possible[1].0),
                    "{context}: {status:?}"
                );
                engine.reopen();
                let (last, _) = possible[possible.len() - 1];
                engine.settle(last);
                // Nothing that was taken is lost.
                assert!(engine.status().covers(last), "{context}");
                possible.drain(..possible.len() - 1);
                engine.catch_up();
                check_same(&engine, &possible[0].1, &context);
            }
            _ => {
                let batch = world.batch(&mut random);
                possible.push((append(&engine, batch), world.latest.clone()));
            }
        }
        check_integrity(&engine);
    }
}

/// Makes operations as a broker would, from what it believes to be stored.
#[derive(Clone, Debug, Default)]
pub struct World {
    last_message_id: MessageId,
    /// What all operations so far add up to.
    pub latest: Image,
    /// Messages are up to this much longer than their text.
    pub padding_max: u64,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch of one to four operations, which `latest` has from then on.
    pub fn batch(&mut self, random: &mut Random) -> Vec<Operation> {
        (0..=random.below(4))
            .map(|_| {
                let operation = self.operation(random);
                self.latest.fold(&operation);
                operation
            })
            .collect()
    }

    /// For a store where somebody else has given ids.
    pub fn skip_message_ids(&mut self, upto: MessageId) {
        self.last_message_id = self.last_message_id.max(upto);
    }

    /// A session that is there, and one more message for it.
    pub fn queue_for(&mut self, client_id: &str, random: &mut Random) -> Vec<Operation> {
        let message = self.message("t/1", random);
        let owners = [to(client_id)].into();
        let batch = vec![
            put_session(client_id),
            Operation::Enqueue { message, owners },
        ];
        batch
            .iter()
            .for_each(|operation| self.latest.fold(operation));
        batch
    }

    fn operation(&mut self, random: &mut Random) -> Operation {
        let client_id = random.pick(&CLIENTS);
        let packet_id = 1 + random.below(6) as u16;
        match random.below(24) {
            0..=1 => put_session(client_id),
            2 => delete_session(client_id),
            3 => put_subscription(client_id, random.pick(&TOPICS)),
            4 => Operation::DeleteSubscription {
                client_id: client_id.into(),
                topic_filter: random.pick(&TOPICS).into(),
            },
            5 => received(client_id, packet_id),
            6 => Operation::ReleaseQos2 {
                client_id: client_id.into(),
                packet_id,
            },
            7 => Operation::DeleteGroup {
                share_name: "g".into(),
                topic_filter: "t/+".into(),
            },
            8 => Operation::PutRetained {
                message: self.message(random.pick(&TOPICS), random),
            },
            9 => Operation::DeleteRetained {
                topic: random.pick(&TOPICS).into(),
            },
            10 => Operation::PutClock(ClockRecord {
                broker: random.below(9),
                wall: random.below(9),
            }),
            11..=13 => self
                .progress(random)
                .unwrap_or_else(|| put_session(client_id)),
            14..=15 => pubrec(client_id, packet_id),
            16..=17 => self.some_queued(random).map_or_else(
                || put_session(client_id),
                |(owner, queued)| dequeue(&owner, queued.message_id),
            ),
            18..=19 => self
                .some_transfer(random)
                .unwrap_or_else(|| put_session(client_id)),
            _ => {
                let mut owners: Vec<OwnerEntry> = CLIENTS
                    .iter()
                    .filter(|_| random.below(3) == 0)
                    .map(|client_id| to(client_id))
                    .collect();
                if random.below(3) == 0 {
                    owners.push(to_group());
                }
                let message = self.message("t/1", random);
                let owners = owners.into();
                Operation::Enqueue { message, owners }
            }
        }
    }

    fn message(&mut self, topic: &str, random: &mut Random) -> Arc<StoredMessage> {
        self.last_message_id += 1;
        let mut message = message(topic, self.last_message_id);
        if self.padding_max > 0 {
            let padding = usize::try_from(random.below(self.padding_max)).unwrap_or(0);
            let filler = (self.last_message_id % 251) as u8;
            Arc::make_mut(&mut message).payload = vec![filler; padding].into();
        }
        message
    }

    /// A waiting or sent message of a session gets a packet id that is free.
    fn progress(&self, random: &mut Random) -> Option<Operation> {
        let (owner, queued) = self.some_queued(random)?;
        let Owner::Session(client_id) = &owner else {
            return None;
        };
        queued.state.message()?;
        let used: BTreeSet<u16> = self
            .latest
            .queue(&owner, 0)
            .filter_map(|queued| queued.state.packet_id())
            .collect();
        let packet_id = (1..=6).find(|packet_id| !used.contains(packet_id))?;
        Some(assign(client_id, queued.message_id, packet_id))
    }

    fn some_transfer(&self, random: &mut Random) -> Option<Operation> {
        let (from, queued) = self.some_queued(random)?;
        let target = match random.below(4) {
            0 => to_group(),
            _ => to(random.pick(&CLIENTS)),
        };
        let has_it = self
            .latest
            .queue(&target.owner, 0)
            .any(|other| other.message_id == queued.message_id);
        (!has_it).then(|| transfer(queued.message_id, &from, target))
    }

    fn some_queued(&self, random: &mut Random) -> Option<(Owner, QueuedMessage)> {
        let owners: Vec<&Owner> = self.latest.owners().collect();
        if owners.is_empty() {
            return None;
        }
        let owner = random.pick(&owners);
        let queue: Vec<QueuedMessage> = self.latest.queue(owner, 0).collect();
        Some((owner.clone(), random.pick(&queue)))
    }
}

/// SplitMix64: small, and the same everywhere. Made from a seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 up to, and without, `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// Steps of one seeded life.
const STEPS: usize = 200;
const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&str; 4] = ["t", "u", "v/w", "$share/g/t/+"];
