//! What the seed lets happen: what clients do, and the faults of network, disk and process.

use nightjar_storage::SessionRecord;

use super::*;
use crate::model::payload_message;

impl World {
    /// A client's next idea.
    pub(super) fn act(&mut self, client: usize) {
        let busy = self.climate.busy;
        let wait = match self.part {
            Part::Life => 1 + self.random.below(2 * busy),
            _ => 200,
        };
        if self.part == Part::Ending {
            return;
        }
        self.after(wait, Event::Act { client });
        let waited = self.now - self.clients[client].since;
        match (self.clients[client].phase, self.part) {
            (Phase::Offline, Part::Life) => {
                let asked = match self.random.below(100) {
                    _ if self.clients[client].kind != Kind::Durable => Asked::Usual,
                    0..4 => Asked::CleanStart,
                    4..6 => Asked::LastTime,
                    _ => Asked::Usual,
                };
                self.open_link(client, asked);
            }
            (Phase::Offline, _) => self.open_link(client, Asked::Usual),
            (Phase::Connecting, _) => {
                if waited > 4000 {
                    self.open_link(client, Asked::Usual);
                }
            }
            (Phase::Online, Part::Life) => self.act_online(client),
            (Phase::Online, _) => self.clients[client].acknowledge(usize::MAX),
        }
        let one = &mut self.clients[client];
        let silence = self.now - one.last_sent;
        if one.phase == Phase::Online
            && one.keep_alive > 0
            && silence > u64::from(one.keep_alive) * 500
        {
            one.ping();
        }
        self.flush(client);
    }

    pub(super) fn act_online(&mut self, client: usize) {
        let chance = self.random.below(1000);
        let Self {
            clients,
            model,
            random,
            now,
            ..
        } = self;
        let one = &mut clients[client];
        match chance {
            0..500 => one.publish(*now, true, model, random),
            500..560 => {
                for _ in 0..random.between(2, 15) {
                    one.publish(*now, true, model, random);
                }
            }
            560..640 => one.subscribe(random),
            640..670 => one.unsubscribe(random),
            670..680 => {
                one.subscribe(random);
                one.unsubscribe(random);
            }
            680..720 => one.ping(),
            720..740 => {
                let (ends, with_will) = (random.chance(15), random.chance(30));
                one.disconnect(ends, with_will);
                let link = one.link;
                self.flush(client);
                self.clients[client].lost();
                if let Some(link) = link {
                    self.close_link(link);
                }
            }
            740..755 => self.cut(client),
            // The same client id again, while the first connection still stands.
            755..780 => {
                let asked = match self.random.below(10) {
                    0 if self.clients[client].kind == Kind::Durable => Asked::CleanStart,
                    _ => Asked::Usual,
                };
                self.open_link(client, asked);
                if self.random.chance(30) {
                    self.open_link(client, Asked::Usual);
                }
            }
            780..790 => one.is_slow = !one.is_slow,
            _ => {
                let count = random.index(4);
                one.acknowledge(count);
            }
        }
        if self.clients[client].phase == Phase::Online && self.random.chance(30) {
            self.clients[client].acknowledge(1);
        }
    }

    /// The network loses a connection.
    pub(super) fn cut(&mut self, client: usize) {
        let Some(link) = self.clients[client].link else {
            return;
        };
        log(|| format!("link {link} of c{client} is cut"));
        match self.random.below(3) {
            // With everything that was under way.
            0 => {
                self.links[link].cut = true;
                let delay = self.random.below(2000);
                self.after(delay, Event::ClosedToBroker { link });
            }
            // The broker gets what was under way, then the end.
            1 => self.close_link(link),
            // Only the client notices.
            _ => self.links[link].cut = true,
        }
        self.clients[client].lost();
    }

    pub(super) fn fault(&mut self) {
        if self.part != Part::Life {
            return;
        }
        let wait = self.random.between(300, 4000);
        self.after(wait, Event::Fault);
        match self.random.below(10) {
            0..3 if self.climate.crashes => self.crash(),
            3 if self.climate.crashes => self.stop(),
            4 => {
                let client = self.random.index(self.clients.len());
                self.cut(client);
            }
            5 => {
                let stall = self.random.between(100, 3000);
                self.disk_stalls_until = self.now + stall;
                log(|| format!("the disk stands still for {stall} ms"));
            }
            6 if self.climate.disk_faults => {
                let appends = self.random.between(1, 10);
                log(|| format!("the next {appends} appends are refused"));
                if let Some(engine) = &self.engine {
                    engine.fail_next_appends(u32::try_from(appends).expect("few"));
                }
            }
            7 if self.climate.disk_faults && self.climate.disk_fails != DiskFails::Never => {
                if let Some(engine) = self.engine.as_ref().filter(|_| self.broker.is_some()) {
                    log(|| "the disk fails".into());
                    engine.fail("a simulated fault");
                    self.model.journal_has_failed = true;
                    let wait = self.random.between(10, 3000);
                    let next = match self.climate.disk_fails {
                        DiskFails::AndIsReopened => Event::Reopen,
                        _ => Event::Crash,
                    };
                    self.after(wait, next);
                    self.wake_all();
                }
            }
            8 if self.climate.clock_is_set => {
                let decades = 68 * 31_557_600_000;
                let now = i64::try_from(WALL + self.now).expect("small");
                self.wall_is_off = *self.random.pick(&[0, 0, decades, -decades, 20_000 - now]);
                log(|| format!("the wall clock is set, and off by {} ms", self.wall_is_off));
            }
            _ => {}
        }
    }

    pub(super) fn reopen(&mut self) {
        let Some(engine) = &self.engine else { return };
        if matches!(engine.status(), JournalStatus::Failed { .. }) {
            log(|| "the disk works again".into());
            engine.reopen();
            self.wake_all();
        }
    }

    pub(super) fn wake_all(&mut self) {
        let shards = self.broker.as_ref().map_or(0, |broker| broker.shards.len());
        for shard in 0..shards {
            self.wake(shard);
        }
    }

    /// The durable mark moves, or does not.
    pub(super) fn disk(&mut self) {
        let delay = match self.part {
            Part::Life => 1 + self.random.below(self.climate.disk_delay),
            _ => 10,
        };
        self.after(delay, Event::Disk);
        let Some(engine) = &self.engine else { return };
        let pending = engine.pending();
        if pending.is_empty() || self.now < self.disk_stalls_until {
            return;
        }
        let upto = if self.random.chance(60) {
            pending[pending.len() - 1]
        } else {
            pending[self.random.index(pending.len())]
        };
        engine.commit(upto);
        self.wake_all();
    }

    pub(super) fn start_broker(&mut self) {
        self.life += 1;
        let shards = ShardId::try_from(self.random.between(2, 4)).expect("few");
        let hash_seed = self.random.next();
        log(|| format!("the broker starts, life {} with {shards} shards", self.life));
        self.resume_clock();
        self.look_at_wills();
        let broker = Broker::start(
            self.life,
            shards,
            hash_seed,
            &self.settings,
            self.engine.as_ref(),
            self.clock(),
        );
        self.broker = Some(broker);
        self.wake_all();
    }

    /// The broker clock goes on where the store has it (D12).
    fn resume_clock(&mut self) {
        if self.climate.clock_is_set && self.random.chance(20) {
            // Its battery is empty.
            self.wall_is_off = -i64::try_from(WALL).expect("small");
        }
        let stored = self
            .engine
            .as_ref()
            .and_then(|engine| engine.image().clock());
        if let Some(stored) = stored {
            // Set forth so shortly before the crash that the store has not heard of it, or while the broker was not there: that
            // is time that has passed, as far as anybody can tell. In this world somebody puts it right in time.
            let passed = self.now.saturating_sub(self.in_world(stored.broker));
            let latest = stored.wall + passed + 1000;
            if self.wall() > latest {
                self.wall_is_off -= i64::try_from(self.wall() - latest).expect("decades");
            }
        }
        self.started = (resumed_at(stored, self.wall()), self.now);
    }

    /// Tells the model which wills the store has.
    fn look_at_wills(&mut self) {
        let Some(engine) = &self.engine else { return };
        let grace = u64::from(self.settings.will_restart_grace_seconds);
        for (key, session) in stored_wills(engine) {
            let Some(will) = &session.will else { continue };
            let expiry = session.session_expiry_interval;
            let wait = u64::from(will.delay.min(expiry)).max(grace) * 1000;
            let at = will
                .fires_at
                .map_or(self.now + wait, |at| self.in_world(at));
            self.model.will_has_survived(key, at, expiry == 0);
        }
    }

    /// The process dies, and the power with it.
    pub(super) fn crash(&mut self) {
        let Some(broker) = self.broker.take() else {
            return;
        };
        log(|| "crash".into());
        let links = broker.open_links();
        let at_rest = broker.is_at_rest();
        drop(broker);
        if let Some(engine) = self.engine.as_ref().filter(|_| at_rest) {
            let stored = stored_wills(engine).map(|(key, ..)| key).collect();
            self.model.check_wills_are_stored(&stored);
        }
        if let Some(engine) = &self.engine {
            let more = if self.random.chance(30) {
                self.random.index(4)
            } else {
                0
            };
            let next = engine.crash_keeping(more);
            check_integrity(&next);
            self.engine = Some(next);
        }
        self.model.crashed(false, at_rest);
        self.lose_links(links);
    }

    /// SIGTERM: everybody hears of it, everything is written.
    pub(super) fn stop(&mut self) {
        let now = self.clock();
        let Some(mut broker) = self.broker.take() else {
            return;
        };
        if let Some(engine) = &self.engine
            && matches!(engine.status(), JournalStatus::Failed { .. })
        {
            self.broker = Some(broker);
            return;
        }
        log(|| "the broker stops".into());
        // What was on its way between shards is delivered first; the worker threads end when there is none left.
        broker.shut_down(now, &mut self.model);
        let mut effects = Vec::new();
        for _ in 0..200 {
            for shard in 0..broker.shards.len() {
                broker.turn(shard, now, &mut self.random, &mut self.model, &mut effects);
            }
            if let Some(engine) = &self.engine {
                engine.commit_all();
            }
            for effect in effects.drain(..) {
                if let Effect::ToClient { link, piece } = effect {
                    self.send_to_client(link, piece);
                }
            }
            if broker.is_at_rest() {
                break;
            }
        }
        let links: Vec<usize> = (0..self.links.len())
            .filter(|link| self.links[*link].life == self.life)
            .collect();
        drop(broker);
        if let Some(engine) = &self.engine {
            engine.commit_all();
            let next = engine.crash();
            check_integrity(&next);
            self.engine = Some(next);
        }
        self.model.crashed(true, true);
        self.lose_links(links);
    }

    pub(super) fn lose_links(&mut self, links: Vec<usize>) {
        for link in links {
            let at = self.links[link].to_client_at.max(self.now) + 1;
            self.at(at, Event::ClosedToClient { link });
        }
        let wait = self.random.between(10, 2000);
        self.after(wait, Event::Start);
    }
}

/// Every will in the store, by its number.
fn stored_wills(engine: &MemoryEngine) -> impl Iterator<Item = (usize, SessionRecord)> {
    let sessions: Vec<SessionRecord> = engine
        .image()
        .sessions()
        .map(|(_, session)| session.clone())
        .collect();
    sessions.into_iter().filter_map(|session| {
        let key = payload_message(&session.will.as_ref()?.payload);
        Some((key, session))
    })
}
