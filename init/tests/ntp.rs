//! The time from the network, with servers of every kind in a network namespace of the test's own. The machine's
//! clock is not touched: a clock of the test's own is corrected.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mote_init::net;
use mote_init::ntp::{self, State, Wish};
use mote_init::sys::adjust::{AdjustError, Clock};
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// Seconds from 1900 to 1970.
const NTP_1970: u64 = 2_208_988_800;

/// What a server does.
#[derive(Clone, Copy)]
enum Server {
    /// Says the time plus so many seconds.
    Says(i64),
    /// Hears and is silent.
    Silent,
    /// Says four letters instead.
    Kiss(&'static [u8; 4]),
    /// Answers another question first, then this one.
    StrayFirst,
    /// Leap indicator, stratum and root dispersion (seconds) as given.
    Header(u8, u8, u16),
    /// Half an answer.
    Short,
}

/// A server at work and how often it was asked.
struct Running {
    name: String,
    asked: Arc<AtomicUsize>,
}

async fn start(server: Server) -> Running {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let name = socket.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut question = [0_u8; 128];
        loop {
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            assert_eq!(length, 48);
            count.fetch_add(1, Ordering::SeqCst);
            for answer in answers(server, &question[..length]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    Running { name, asked }
}

fn answers(server: Server, question: &[u8]) -> Vec<Vec<u8>> {
    let shift = if let Server::Says(shift) = server { shift } else { 0 };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seconds = (now.as_secs() + NTP_1970).checked_add_signed(shift).unwrap() & 0xffff_ffff;
    let stamp = ((seconds << 32) | ((u64::from(now.subsec_micros()) << 32) / 1_000_000)).to_be_bytes();
    let mut answer = vec![0_u8; 48];
    let (leap, stratum, dispersion) = match server {
        Server::Header(leap, stratum, dispersion) => (leap, stratum, dispersion),
        Server::Kiss(_) => (3, 0, 0),
        _ => (0, 2, 0),
    };
    answer[0] = (leap << 6) | (4 << 3) | 4;
    answer[1] = stratum;
    answer[8..10].copy_from_slice(&dispersion.to_be_bytes());
    if let Server::Kiss(code) = server {
        answer[12..16].copy_from_slice(code);
    }
    answer[24..32].copy_from_slice(&question[40..48]);
    answer[32..40].copy_from_slice(&stamp);
    answer[40..48].copy_from_slice(&stamp);
    match server {
        Server::Silent => Vec::new(),
        Server::Short => vec![answer[..40].to_vec()],
        Server::StrayFirst => {
            let mut stray = answer.clone();
            stray[24] ^= 0x80;
            stray[40] ^= 0x01;
            vec![stray, answer]
        }
        _ => vec![answer],
    }
}

/// What was done to the clock.
#[derive(Debug, Clone, PartialEq)]
enum Done {
    Step(Duration),
    Pull(i64),
    Pace(i64),
    Hardware(Duration),
}

#[derive(Clone, Default)]
struct TestClock {
    /// Ahead of the machine's, microseconds.
    ahead_us: Arc<AtomicI64>,
    done: Arc<Mutex<Vec<Done>>>,
}

impl TestClock {
    fn ahead(seconds: i64) -> Self {
        let clock = Self::default();
        clock.ahead_us.store(seconds * 1_000_000, Ordering::SeqCst);
        clock
    }

    fn note(&self, done: Done) -> Result<(), AdjustError> {
        self.done.lock().unwrap().push(done);
        Ok(())
    }

    fn done(&self) -> Vec<Done> {
        self.done.lock().unwrap().clone()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let micros = i64::try_from(now.as_micros()).unwrap() + self.ahead_us.load(Ordering::SeqCst);
        Duration::from_micros(micros.try_into().unwrap())
    }

    fn step_forward(&self, by: Duration) -> Result<(), AdjustError> {
        self.ahead_us.fetch_add(by.as_micros().try_into().unwrap(), Ordering::SeqCst);
        self.note(Done::Step(by))
    }

    fn pull(&self, offset_us: i64, _: Duration) -> Result<(), AdjustError> {
        self.note(Done::Pull(offset_us))
    }

    fn pace(&self, ppm: i64) -> Result<(), AdjustError> {
        self.note(Done::Pace(ppm))
    }

    fn set_hardware(&self, time: Duration) -> Result<(), AdjustError> {
        self.note(Done::Hardware(time))
    }
}

/// Runs in a network namespace with nothing but a loopback interface.
fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: only this thread moves to a new network namespace; no file descriptor table or memory is
        // unshared, so no other thread can see a difference.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            net::loopback().await.unwrap();
            test().await;
        });
    });
    thread.join().unwrap();
}

/// Asks the servers until the state is known; the state.
async fn first_state(servers: &[&Running], clock: &TestClock) -> State {
    let wish = Wish { servers: servers.iter().map(|server| server.name.clone()).collect() };
    let network = watch::Sender::new(net::State {
        address: Some(Ipv4Addr::LOCALHOST.into()),
        settled: true,
        ..net::State::default()
    });
    let state = watch::Sender::default();
    let mut told = state.subscribe();
    let task = tokio::spawn(ntp::run(wish, clock.clone(), network.subscribe(), state));
    let known = told.wait_for(|state| *state != State::Unasked);
    let known = tokio::time::timeout(Duration::from_secs(20), known).await.unwrap().unwrap().clone();
    task.abort();
    known
}

fn names_a_server(state: &State, server: &Running) -> bool {
    matches!(state, State::Set { server: name, .. } if *name == server.name)
}

#[test]
fn a_clock_behind_steps_forward_and_one_ahead_is_slowed() {
    in_a_namespace(|| async {
        let good = start(Server::Says(0)).await;
        let clock = TestClock::ahead(-100);
        assert!(names_a_server(&first_state(&[&good], &clock).await, &good));
        let [Done::Step(by)] = clock.done()[..] else { panic!("{:?}", clock.done()) };
        assert!(by.abs_diff(Duration::from_secs(100)) < Duration::from_secs(2), "{by:?}");

        let clock = TestClock::ahead(5);
        assert!(names_a_server(&first_state(&[&good], &clock).await, &good));
        assert_eq!(clock.done(), [Done::Pace(-10_000)]);

        let clock = TestClock::ahead(0);
        first_state(&[&good], &clock).await;
        assert!(
            matches!(clock.done()[..], [Done::Pull(offset)] if offset.abs() < 500_000),
            "{:?}",
            clock.done()
        );
    });
}

#[test]
fn a_clock_in_2099_stays_and_the_next_boot_is_right() {
    in_a_namespace(|| async {
        let good = start(Server::Says(0)).await;
        let years = 73 * 365 * 86_400;
        let clock = TestClock::ahead(years);
        let state = first_state(&[&good], &clock).await;
        assert!(matches!(state, State::Ahead { .. }), "{state:?}");
        assert!(state.problem().unwrap().contains("restart"));
        let [Done::Hardware(time)] = clock.done()[..] else { panic!("{:?}", clock.done()) };
        let truth = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(time.abs_diff(truth) < Duration::from_secs(5), "{time:?}");
    });
}

#[test]
fn liars_are_outvoted_or_nobody_is_believed() {
    in_a_namespace(|| async {
        let [good, other] = [start(Server::Says(0)).await, start(Server::Says(0)).await];
        let [liar, second] = [start(Server::Says(7200)).await, start(Server::Says(-900)).await];
        let clock = TestClock::ahead(0);
        let state = first_state(&[&liar, &good, &other], &clock).await;
        assert!(names_a_server(&state, &good) || names_a_server(&state, &other), "{state:?}");
        assert!(matches!(clock.done()[..], [Done::Pull(_)]), "{:?}", clock.done());

        let clock = TestClock::ahead(0);
        let state = first_state(&[&liar, &good, &second], &clock).await;
        assert_eq!(state, State::Disagreement(3));
        assert_eq!(clock.done(), []);

        // Before this program was built: that cannot be, whoever says it.
        let ancient = start(Server::Says(-40 * 365 * 86_400)).await;
        let state = first_state(&[&ancient], &clock).await;
        assert!(state.to_string().contains("cannot be true"), "{state}");
        assert_eq!(clock.done(), []);
    });
}

#[test]
fn silence_and_bad_answers_leave_the_clock_alone() {
    in_a_namespace(|| async {
        let clock = TestClock::ahead(-50);
        for (server, why) in [
            (Server::Silent, "No answer"),
            (Server::Header(3, 2, 0), "UnsynchronizedClock"),
            (Server::Header(0, 16, 0), "IncorrectStratum"),
            (Server::Header(0, 2, 20), "ExcessiveRootDistance"),
            (Server::Header(0, 2, 9), "may be wrong by 9 s"),
            (Server::Short, "No answer"),
        ] {
            let server = start(server).await;
            let started = std::time::Instant::now();
            let state = first_state(&[&server], &clock).await;
            assert!(matches!(&state, State::Silence(reasons) if reasons.contains(why)), "{why}: {state:?}");
            assert!(started.elapsed() < Duration::from_secs(6));
        }
        // Nobody there at all.
        let gone = Running { name: "127.0.0.1:9".to_owned(), asked: Arc::default() };
        let state = first_state(&[&gone], &clock).await;
        assert!(state.to_string().contains("Cannot be reached"), "{state}");
        assert_eq!(clock.done(), []);

        let stray = start(Server::StrayFirst).await;
        assert!(names_a_server(&first_state(&[&stray], &clock).await, &stray));
    });
}

#[test]
fn a_server_that_says_no_is_not_asked_again() {
    in_a_namespace(|| async {
        let servers = [start(Server::Kiss(b"DENY")).await, start(Server::Kiss(b"RATE")).await];
        let silent = start(Server::Kiss(b"INIT")).await;
        let clock = TestClock::ahead(-50);
        let wish =
            Wish { servers: servers.iter().chain([&silent]).map(|server| server.name.clone()).collect() };
        let network = watch::Sender::new(net::State {
            address: Some(Ipv4Addr::LOCALHOST.into()),
            settled: true,
            ..net::State::default()
        });
        let state = watch::Sender::default();
        let task = tokio::spawn(ntp::run(wish, clock.clone(), network.subscribe(), state.clone()));
        // Two rounds at least, by the first pauses.
        let enough = async {
            while silent.asked.load(Ordering::SeqCst) < 3 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), enough).await.unwrap();
        task.abort();
        for server in &servers {
            assert_eq!(server.asked.load(Ordering::SeqCst), 1);
        }
        assert!(state.borrow().to_string().contains("No time server answers"), "{}", *state.borrow());
        assert_eq!(clock.done(), []);
    });
}
