//! The life of keys against a model of it: what one would note down of them on paper.

use std::time::Duration;

use proptest::prelude::*;
use tollgate::clock::{Clock, ManualClock};
use tollgate::keys::{
    EndCause, KeyId, KeyState, KeyStore, KeyUpdate, MemoryKeys, NewKey, Rotation,
};
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{NOW, Script, Scripted, clock, node, peppers, send, who, with};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Status {
    Scheduled,
    Active,
    Retiring,
    Disabled,
    Ended(EndCause),
}

impl Status {
    fn of(state: KeyState) -> Self {
        match state {
            KeyState::Scheduled => Self::Scheduled,
            KeyState::Active => Self::Active,
            KeyState::Retiring { .. } => Self::Retiring,
            KeyState::Disabled => Self::Disabled,
            KeyState::Ended(cause) => Self::Ended(cause),
            other => panic!("{other:?} is new"),
        }
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// What a holder of the key is told.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Active | Self::Retiring => None,
            Self::Scheduled => Some("credential_not_yet_valid"),
            Self::Ended(EndCause::Expired) => Some("credential_expired"),
            Self::Disabled | Self::Ended(_) => Some("credential_revoked"),
        }
    }
}

/// What is noted down of a key. Times are seconds from the start.
#[derive(Clone, Debug)]
struct Paper {
    starts: Option<u64>,
    expires: Option<u64>,
    grace_ends: Option<u64>,
    disabled: bool,
    ended: Option<EndCause>,
    scope: &'static str,
    predecessor: Option<usize>,
}

impl Paper {
    fn status(&self, now: u64) -> Status {
        let is_past = |end: Option<u64>| end.is_some_and(|end| now >= end);
        if let Some(cause) = self.ended {
            Status::Ended(cause)
        } else if is_past(self.grace_ends) {
            // The grace never reaches beyond the expiry; at the same second it comes first.
            Status::Ended(EndCause::RotatedOut)
        } else if is_past(self.expires) {
            Status::Ended(EndCause::Expired)
        } else if self.disabled {
            Status::Disabled
        } else if self.starts.is_some_and(|start| now < start) {
            Status::Scheduled
        } else if self.grace_ends.is_some() {
            Status::Retiring
        } else {
            Status::Active
        }
    }

    /// The first cause is written down, except that a compromise always is.
    fn end(&mut self, cause: EndCause, now: u64) {
        let first = match self.status(now) {
            Status::Ended(first) if cause != EndCause::Compromised => first,
            _ => cause,
        };
        self.ended = Some(first);
    }

    fn disable(&mut self, disabled: bool, now: u64) -> bool {
        let fits = !self.status(now).is_over();
        if fits {
            self.disabled = disabled;
        }
        fits
    }

    fn set_scope(&mut self, scope: &'static str, now: u64) -> bool {
        let fits = !self.status(now).is_over();
        if fits {
            self.scope = scope;
        }
        fits
    }

    fn schedule(&mut self, start: u64, now: u64) -> bool {
        let ends_before = self
            .grace_ends
            .or(self.expires)
            .is_some_and(|end| end <= start);
        let has_begun = self.starts.is_none_or(|start| now >= start);
        let fits = !ends_before && !has_begun && !self.status(now).is_over();
        if fits {
            self.starts = Some(start);
        }
        fits
    }

    /// Its successor, if it can have one.
    fn rotate(&mut self, index: usize, grace: u64, life: Option<u64>, now: u64) -> Self {
        let end = now + grace;
        self.grace_ends = Some(self.expires.map_or(end, |expiry| expiry.min(end)));
        Self {
            starts: None,
            expires: life.map(|life| now + life),
            grace_ends: None,
            disabled: false,
            ended: None,
            scope: self.scope,
            predecessor: Some(index),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Back(u64),
    /// A command, which key it is for, and which node is told.
    Do(Command, usize, usize),
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Rotate(u64),
    Revoke,
    Compromise,
    Disable,
    Enable,
    Schedule(u64),
    SetScope(&'static str),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let command = prop_oneof![
        4 => (0_u64..60).prop_map(Command::Rotate),
        1 => Just(Command::Revoke),
        1 => Just(Command::Compromise),
        2 => Just(Command::Disable),
        2 => Just(Command::Enable),
        1 => (0_u64..60).prop_map(Command::Schedule),
        1 => prop::sample::select(vec!["a", "b", "c"]).prop_map(Command::SetScope),
    ];
    prop::collection::vec(
        prop_oneof![
            3 => (0_u64..40).prop_map(Step::Wait),
            1 => (1_u64..60).prop_map(Step::Back),
            12 => (command, 0_usize..6, 0_usize..2)
                .prop_map(|(command, key, node)| Step::Do(command, key, node)),
        ],
        1..40,
    )
}

/// Keys of one lineage, in the store and on paper.
struct Lineage {
    clock: ManualClock,
    life: Option<u64>,
    papers: Vec<Paper>,
    issued: Vec<(KeyId, String)>,
}

impl Lineage {
    async fn begin<S: KeyStore>(
        keys: &ApiKeys<S>,
        clock: ManualClock,
        start: u64,
        life: Option<u64>,
    ) -> Self {
        let start_at = NOW.saturating_add(Duration::from_secs(start));
        let mut new = NewKey::for_owner("alice")
            .scopes(["a"])
            .not_before(start_at);
        if let Some(life) = life {
            new = new.expires_in(Duration::from_secs(life));
        }
        let first = keys.issue(new).await.unwrap();
        let paper = Paper {
            starts: Some(start),
            expires: life,
            grace_ends: None,
            disabled: false,
            ended: None,
            scope: "a",
            predecessor: None,
        };
        Self {
            clock,
            life,
            papers: vec![paper],
            issued: vec![(first.record.id, first.key.expose().to_owned())],
        }
    }

    fn now(&self) -> u64 {
        self.clock.now().since(NOW).as_secs()
    }

    fn set(&self, now: u64) {
        self.clock.set(NOW.saturating_add(Duration::from_secs(now)));
    }

    async fn command<S: KeyStore>(&mut self, keys: &ApiKeys<S>, command: Command, key: usize) {
        let (now, id) = (self.now(), self.issued[key].0);
        let predecessor = self.papers[key].predecessor;
        let is_alone = predecessor.is_none_or(|other| self.papers[other].status(now).is_over());
        let paper = &mut self.papers[key];
        match command {
            Command::Revoke => {
                keys.revoke(id).await.unwrap();
                paper.end(EndCause::Revoked, now);
            }
            Command::Compromise => {
                keys.report_compromised(id).await.unwrap();
                paper.end(EndCause::Compromised, now);
            }
            Command::Disable => {
                assert_eq!(keys.disable(id).await.is_ok(), paper.disable(true, now));
            }
            Command::Enable => {
                assert_eq!(keys.enable(id).await.is_ok(), paper.disable(false, now));
            }
            Command::Schedule(start) => {
                let at = NOW.saturating_add(Duration::from_secs(now + start));
                let scheduled = keys.schedule(id, at).await;
                assert_eq!(scheduled.is_ok(), paper.schedule(now + start, now));
            }
            Command::SetScope(scope) => {
                let set = keys.update(id, KeyUpdate::new().set_scopes([scope])).await;
                assert_eq!(set.is_ok(), paper.set_scope(scope, now));
            }
            Command::Rotate(grace) => {
                let fits = is_alone && paper.status(now) == Status::Active;
                let rotation = Rotation::with_grace(Duration::from_secs(grace));
                let rotated = keys.rotate(id, rotation).await;
                assert_eq!(rotated.is_ok(), fits, "{paper:?}");
                if let Ok(successor) = rotated {
                    let next = paper.rotate(key, grace, self.life, now);
                    self.papers.push(next);
                    let id = successor.record.id;
                    self.issued.push((id, successor.key.expose().to_owned()));
                }
            }
        }
    }

    async fn check<S: KeyStore>(&self, keys: &ApiKeys<S>, key: usize) {
        let (paper, (id, text)) = (&self.papers[key], &self.issued[key]);
        let status = paper.status(self.now());
        let record = keys.get(*id).await.unwrap().unwrap();
        assert_eq!(Status::of(record.state(self.clock.now())), status);
        assert_eq!(record.scopes.as_str(), paper.scope);
        let door = AuthLayer::new(keys.clone()).clock(self.clock.clone());
        let answer = send(&door.layer(who()), with("x-api-key", text)).await;
        let code = (answer.status != 200).then(|| answer.code());
        assert_eq!(code.as_deref(), status.code());
    }
}

/// Takes steps on several nodes. `view` sees what is stored; the node that is told of a
/// change knows of it at once.
async fn live<S: KeyStore, V: KeyStore>(
    nodes: &[ApiKeys<S>],
    view: &ApiKeys<V>,
    mut lineage: Lineage,
    steps: Vec<Step>,
) {
    let mut latest = 0;
    for step in steps {
        match step {
            Step::Wait(seconds) => lineage.set(lineage.now() + seconds),
            Step::Back(seconds) => lineage.set(lineage.now().saturating_sub(seconds)),
            Step::Do(command, key, node) => {
                let (key, keys) = (key % lineage.papers.len(), &nodes[node % nodes.len()]);
                lineage.command(keys, command, key).await;
                lineage.check(keys, key).await;
            }
        }
        for key in 0..lineage.papers.len() {
            lineage.check(view, key).await;
        }
        // While a clock is back, those whose time was over are good once more.
        latest = latest.max(lineage.now());
        if lineage.now() == latest {
            let is_good = |paper: &&Paper| paper.status(latest).code().is_none();
            let good = lineage.papers.iter().filter(is_good).count();
            assert!(good <= 2, "at most two generations are good");
        }
    }
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn keys_in_memory_live_as_they_do_on_paper(
        start in 0_u64..20,
        life in prop::option::of(21_u64..200),
        steps in steps(),
    ) {
        run(async {
            let clock = clock();
            let keys = ApiKeys::new(MemoryKeys::new(), peppers())
                .prefix("acme")
                .clock(clock.clone());
            let lineage = Lineage::begin(&keys, clock, start, life).await;
            live(std::slice::from_ref(&keys), &keys, lineage, steps).await;
        });
    }

    #[test]
    fn keys_of_two_nodes_with_caches_live_as_they_do_on_paper(
        start in 0_u64..20,
        life in prop::option::of(21_u64..200),
        steps in steps(),
    ) {
        run(async {
            let (store, clock) = (Scripted::new(Script::Later), clock());
            let nodes = [node(&store, &clock), node(&store, &clock)];
            let lineage = Lineage::begin(&nodes[0], clock, start, life).await;
            live(&nodes, &nodes[0].strict(), lineage, steps).await;
        });
    }
}
