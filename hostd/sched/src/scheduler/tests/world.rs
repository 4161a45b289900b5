//! A caller that does what is decided, and checks that it can be done.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Starting,
    Blank,
    Up,
    Busy,
    Draining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Started {
    pub(super) sandbox: SandboxId,
    pub(super) function: Option<FunctionId>,
    pub(super) in_blank: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handed {
    pub(super) call: CallId,
    pub(super) sandbox: SandboxId,
    pub(super) function: FunctionId,
    pub(super) first: bool,
    pub(super) at_once: bool,
    pub(super) at: Time,
}

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) now: Time,
    pub(super) known: BTreeMap<SandboxId, (Known, Option<FunctionId>)>,
    /// Calls without an answer, with their function and when they came.
    pub(super) calls: HashMap<CallId, (FunctionId, Time)>,
    calls_made: u64,
    agenda: BinaryHeap<Reverse<(Time, u64, u8, SandboxId)>>,
    serial: u64,
    /// Whether what was decided is put on the agenda.
    pub(super) acts: bool,
    pub(super) call_ms: HashMap<FunctionId, u64>,
    /// Functions that were removed and not replaced.
    pub(super) removed: HashSet<FunctionId>,
    pub(super) starts: Vec<Started>,
    pub(super) handed: Vec<Handed>,
    pub(super) refused: Vec<(CallId, Refusal, Duration)>,
    pub(super) evicted: Vec<SandboxId>,
    pub(super) retired: Vec<(SandboxId, Retirement)>,
}

const READY: u8 = 0;
const ENDED: u8 = 1;
const GONE: u8 = 2;

impl World {
    pub(super) fn new(config: Config, nodes: &[NodeSpec]) -> Self {
        let mut scheduler = Scheduler::new(config);
        nodes.iter().for_each(|node| _ = scheduler.add_node(*node));
        Self {
            scheduler,
            now: Time::default(),
            known: BTreeMap::new(),
            calls: HashMap::new(),
            calls_made: 0,
            agenda: BinaryHeap::new(),
            serial: 0,
            acts: true,
            call_ms: HashMap::new(),
            removed: HashSet::new(),
            starts: Vec::new(),
            handed: Vec::new(),
            refused: Vec::new(),
            evicted: Vec::new(),
            retired: Vec::new(),
        }
    }

    pub(super) fn tenant(&mut self) -> TenantId {
        self.scheduler.add_tenant(TenantSpec::default())
    }

    pub(super) fn register(&mut self, spec: FunctionSpec) -> FunctionId {
        let mut out = Vec::new();
        let function = self.scheduler.register(self.now, spec, &mut out).unwrap();
        self.act(&out);
        function
    }

    /// A call that waits at most so many seconds.
    pub(super) fn call(&mut self, function: FunctionId, patience_s: u64) -> CallId {
        self.call_for(function, Duration::from_secs(patience_s))
    }

    pub(super) fn call_for(&mut self, function: FunctionId, patience: Duration) -> CallId {
        let call = CallId(self.calls_made);
        self.calls_made += 1;
        self.calls.insert(call, (function, self.now));
        let deadline = self.now.after(patience);
        self.tell(Event::Arrived { call, function, deadline, fresh: false });
        call
    }

    /// A call that is to have a sandbox of its own.
    pub(super) fn call_fresh(&mut self, function: FunctionId, patience: Duration) -> CallId {
        let call = CallId(self.calls_made);
        self.calls_made += 1;
        self.calls.insert(call, (function, self.now));
        let deadline = self.now.after(patience);
        self.tell(Event::Arrived { call, function, deadline, fresh: true });
        call
    }

    pub(super) fn open(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.note(&event);
        let mut out = Vec::new();
        self.scheduler.handle(self.now, event, &mut out).unwrap();
        self.act(&out);
    }

    /// One that may be about a function that was removed.
    pub(super) fn tell_or_gone(&mut self, event: Event) {
        let mut out = Vec::new();
        let result = self.scheduler.handle(self.now, event, &mut out);
        assert!(matches!(result, Ok(()) | Err(EventError::UnknownFunction(_))), "{result:?}");
        self.act(&out);
    }

    /// One that cannot be: it changes nothing.
    pub(super) fn refused_event(&mut self, event: Event) {
        let mut out = Vec::new();
        assert!(self.scheduler.handle(self.now, event, &mut out).is_err());
        assert!(out.is_empty(), "{out:?}");
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Ready { sandbox } => {
                let known = self.known.get_mut(sandbox).unwrap();
                known.0 = if known.1.is_none() { Known::Blank } else { Known::Up };
            }
            Event::Ended { sandbox, .. } => self.known.get_mut(sandbox).unwrap().0 = Known::Up,
            Event::Failed { sandbox, .. } | Event::Gone { sandbox } => _ = self.known.remove(sandbox),
            _ => {}
        }
    }

    fn plan(&mut self, after_ms: u64, what: u8, sandbox: SandboxId) {
        if self.acts {
            self.serial += 1;
            let at = self.now.after(Duration::from_millis(after_ms));
            self.agenda.push(Reverse((at, self.serial, what, sandbox)));
        }
    }

    fn act(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            match *decision {
                Decision::Start { sandbox, function, in_blank, .. } => {
                    let before = self.known.insert(sandbox, (Known::Starting, function));
                    assert_eq!(before.map(|known| known.0), in_blank.then_some(Known::Blank), "{decision:?}");
                    self.starts.push(Started { sandbox, function, in_blank });
                    self.plan(200, READY, sandbox);
                }
                Decision::Hand { call, sandbox, function, first, at_once, .. } => {
                    let (wanted, _) = self.calls.remove(&call).expect("answered once");
                    assert_eq!(wanted, function);
                    let known = self.known.get_mut(&sandbox).expect("a sandbox that is there");
                    assert_eq!(*known, (Known::Up, Some(function)));
                    known.0 = Known::Busy;
                    self.handed.push(Handed { call, sandbox, function, first, at_once, at: self.now });
                    let call_ms = self.call_ms.get(&function).copied().unwrap_or(1000);
                    self.plan(call_ms, ENDED, sandbox);
                }
                Decision::Queue { call } => assert!(self.calls.contains_key(&call)),
                Decision::Refuse { call, reason, retry_after } => {
                    assert!(self.calls.remove(&call).is_some(), "answered once");
                    self.refused.push((call, reason, retry_after));
                }
                Decision::Evict { sandbox, .. } => {
                    assert_eq!(self.known[&sandbox].0, Known::Up, "only idle ones are evicted");
                    self.known.get_mut(&sandbox).unwrap().0 = Known::Draining;
                    self.evicted.push(sandbox);
                    self.plan(10, GONE, sandbox);
                }
                Decision::Retire { sandbox, why, .. } => {
                    let known = self.known.get_mut(&sandbox).unwrap();
                    assert!(!matches!(known.0, Known::Busy | Known::Draining), "{decision:?}");
                    known.0 = Known::Draining;
                    self.retired.push((sandbox, why));
                    self.plan(10, GONE, sandbox);
                }
            }
        }
    }

    /// Does what is next on the agenda, at latest at `until`. False if there is nothing.
    fn next(&mut self, until: Time) -> bool {
        let planned = self.agenda.peek().map_or(Time::NEVER, |Reverse(item)| item.0);
        let timer = self.scheduler.next_timer().unwrap_or(Time::NEVER);
        if planned.min(timer) > until {
            return false;
        }
        if timer < planned {
            self.now = self.now.max(timer);
            self.tell(Event::Timer);
            return true;
        }
        let Some(Reverse((at, _, what, sandbox))) = self.agenda.pop() else { return false };
        self.now = self.now.max(at);
        match (what, self.known.get(&sandbox).map(|known| known.0)) {
            (READY, Some(Known::Starting)) => self.tell(Event::Ready { sandbox }),
            (ENDED, Some(Known::Busy)) => self.tell(Event::Ended { sandbox, healthy: true }),
            (GONE, Some(Known::Draining)) => self.tell(Event::Gone { sandbox }),
            _ => {}
        }
        true
    }

    pub(super) fn run(&mut self, seconds: u64) {
        let until = self.now.after(Duration::from_secs(seconds));
        while self.next(until) {}
        self.now = until;
        self.tell(Event::Timer);
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let until = self.now.after(Duration::from_millis(ms));
        while self.next(until) {}
        self.now = until;
    }

    pub(super) fn step_until_handed(&mut self, count: usize) {
        while self.handed.len() < count {
            assert!(self.next(Time::NEVER));
        }
    }
}
