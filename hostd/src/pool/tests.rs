//! What becomes of orders that fail and calls that wait. Sandboxes themselves need a microVM: see tests/.

use mote_sched::{Config, Limits};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::function::tests::record;

const PATIENCE: Duration = Duration::from_secs(20);

struct Bed {
    pool: Arc<Pool>,
    orders: UnboundedReceiver<Order>,
    key: Key,
}

fn bed(capacity_mb: u64, limits: Limits) -> Bed {
    bed_of(capacity_mb, limits, Vec::new())
}

fn bed_of(capacity_mb: u64, limits: Limits, tenants: Vec<TenantShape>) -> Bed {
    let (pool, orders) = Pool::new(Shape {
        scheduling: Config::default(),
        capacity_mb,
        max_sandboxes: 9,
        blanks: 0,
        starts: u32::MAX,
        reclaim_after: PATIENCE,
        tenants,
    });
    let key: Key = Arc::from("f@1");
    pool.register(
        &key,
        FunctionShape { record: Arc::new(record()), tenant: "t".to_owned(), limits },
        None,
        false,
    );
    Bed { pool, orders, key }
}

fn ask(want: Want, patience: Duration) -> Ask {
    Ask { want, mode: None, record_next: false, reserved: false, deadline: Instant::now() + patience }
}

impl Bed {
    /// A call in a task; with the sender dropped, its caller has hung up.
    fn call(&self, want: Want, patience: Duration) -> (oneshot::Sender<()>, Called) {
        let (alive, mut caller) = oneshot::channel();
        let (pool, key) = (Arc::clone(&self.pool), Arc::clone(&self.key));
        let call =
            tokio::spawn(async move { pool.acquire(&key, ask(want, patience), &mut caller).await.map(drop) });
        (alive, call)
    }

    async fn order(&mut self) -> Order {
        tokio::time::timeout(PATIENCE, self.orders.recv()).await.expect("an order in time").expect("an order")
    }

    /// Until so many calls wait.
    async fn waiting(&self, count: u32) {
        while self.pool.usage().waiting != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

type Called = tokio::task::JoinHandle<Result<(), Refusal>>;

async fn refused(call: Called) -> Refusal {
    tokio::time::timeout(PATIENCE, call).await.expect("an answer in time").unwrap().unwrap_err()
}

#[tokio::test]
async fn one_boots_for_all_and_its_failure_is_everybodys() {
    let mut bed = bed(1000, Limits::default());
    let (_a, first) = bed.call(Want::Auto, PATIENCE);
    let order = bed.order().await;
    let Some(Task::Cold(Some(build))) = order.task else { panic!("{:?}", order.task) };
    let (_b, second) = bed.call(Want::Auto, PATIENCE);
    bed.waiting(2).await;
    assert!(bed.orders.try_recv().is_err(), "it waits for the snapshot");
    assert!(bed.pool.is_coming_up(&bed.key));
    let report = order.lease.as_ref().expect("a lease").report();
    drop(order.lease);
    report.fail(&bed.key, StartFailure::Init(b"{}".to_vec()), Duration::from_millis(5));
    drop(report);
    drop(build);
    for call in [first, second] {
        let refusal = refused(call).await;
        assert!(
            matches!(&refusal, Refusal::Failed(failure) if matches!(**failure, StartFailure::Init(_))),
            "{refusal:?}"
        );
    }
    assert!(!bed.pool.is_coming_up(&bed.key));
    let usage = bed.pool.usage();
    assert_eq!((usage.alive, usage.memory_mb, usage.waiting), (0, 0, 0));
    // Later calls try again.
    let (_c, third) = bed.call(Want::Auto, PATIENCE);
    assert!(matches!(bed.order().await.task, Some(Task::Cold(Some(_)))));
    third.abort();
}

#[tokio::test]
async fn a_start_that_is_lost_is_made_again_a_few_times() {
    let mut bed = bed(1000, Limits::default());
    let (_a, call) = bed.call(Want::Auto, PATIENCE);
    for _ in 0..Config::default().max_start_failures {
        let order = bed.order().await;
        assert!(matches!(order.task, Some(Task::Cold(Some(_)))));
        let report = order.lease.as_ref().expect("a lease").report();
        report.fail(&bed.key, StartFailure::Network(unknown_tenant()), Duration::ZERO);
        drop(report);
        drop(order);
        if call.is_finished() {
            break;
        }
    }
    assert!(matches!(refused(call).await, Refusal::Failed(_)));
}

fn unknown_tenant() -> crate::network::JoinError {
    crate::network::JoinError::Quota { tenant: "t".to_owned(), limit: 1 }
}

#[tokio::test]
async fn who_hangs_up_waits_no_more() {
    let mut bed = bed(1000, Limits { concurrency: 1, ..Limits::default() });
    let (_a, _first) = bed.call(Want::Auto, PATIENCE);
    let _order = bed.order().await;
    let (caller, second) = bed.call(Want::Auto, PATIENCE);
    bed.waiting(2).await;
    drop(caller);
    assert!(matches!(refused(second).await, Refusal::HungUp));
    assert_eq!(bed.pool.usage().waiting, 1);
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_says_what_was_waited_for() {
    let mut bed = bed(1000, Limits { concurrency: 1, ..Limits::default() });
    let (_a, _first) = bed.call(Want::Auto, PATIENCE);
    let _order = bed.order().await;
    let (_b, second) = bed.call(Want::Auto, Duration::from_millis(50));
    let refusal = refused(second).await;
    assert!(matches!(refusal, Refusal::Expired { bound: Bound::Function(1), .. }), "{refusal:?}");
    // One that is to have a sandbox of its own, and cannot.
    let (_c, third) = bed.call(Want::Cold, Duration::from_millis(50));
    assert!(matches!(refused(third).await, Refusal::Expired { .. }));
}

#[tokio::test]
async fn what_is_forgotten_is_gone_for_those_who_wait() {
    let mut bed = bed(1000, Limits::default());
    let (_a, call) = bed.call(Want::Auto, PATIENCE);
    let order = bed.order().await;
    bed.pool.forget(&bed.key).await;
    assert!(matches!(refused(call).await, Refusal::Gone));
    assert!(bed.pool.claim(&bed.key, Want::Auto).is_none());
    drop(order);
    let usage = bed.pool.usage();
    assert_eq!((usage.alive, usage.memory_mb), (0, 0));
    let (_b, late) = bed.call(Want::Auto, PATIENCE);
    assert!(matches!(refused(late).await, Refusal::Gone));
}

#[tokio::test]
async fn a_function_too_big_for_the_machine_is_told_what_there_is() {
    let bed = bed(100, Limits::default());
    let (_a, call) = bed.call(Want::Auto, PATIENCE);
    let refusal = refused(call).await;
    assert!(matches!(refusal, Refusal::TooBig { needed_mb: 136, capacity_mb: 100 }), "{refusal:?}");
}

#[tokio::test]
async fn a_limit_of_zero_refuses_at_once_until_it_is_lifted() {
    let mut bed = bed(1000, Limits { concurrency: 1, ..Limits::default() });
    let (_a, _first) = bed.call(Want::Auto, PATIENCE);
    let _order = bed.order().await;
    let (_b, waiting) = bed.call(Want::Auto, PATIENCE);
    bed.waiting(2).await;
    bed.pool.limit(&bed.key, Limits { concurrency: 0, ..Limits::default() });
    assert!(matches!(refused(waiting).await, Refusal::Forbidden));
    let (_c, late) = bed.call(Want::Auto, PATIENCE);
    assert!(matches!(refused(late).await, Refusal::Forbidden));
    // What is told of a limit is what it is now.
    bed.pool.limit(&bed.key, Limits { concurrency: 1, ..Limits::default() });
    let (_d, _fourth) = bed.call(Want::Auto, PATIENCE);
    bed.waiting(1).await;
    let (_e, fifth) = bed.call(Want::Auto, Duration::from_millis(50));
    let refusal = refused(fifth).await;
    assert!(matches!(refusal, Refusal::Expired { bound: Bound::Function(1), .. }), "{refusal:?}");
}

#[tokio::test]
async fn a_tenant_without_sandboxes_is_no_limit_of_the_function() {
    let spec = TenantSpec { max_concurrency: 0, ..TenantSpec::default() };
    let tenant = TenantShape { name: "t".to_owned(), spec, places: false };
    let bed = bed_of(1000, Limits::default(), vec![tenant]);
    let (_a, call) = bed.call(Want::Auto, PATIENCE);
    let refusal = refused(call).await;
    assert!(matches!(refusal, Refusal::Expired { bound: Bound::Tenant(_), .. }), "{refusal:?}");
    let bounds = bed.pool.bounds("t");
    assert_eq!((bounds.tenant_sandboxes, bounds.sandboxes, bounds.capacity_mb), (0, 9, 1000));
    assert_eq!(bed.pool.bounds("nobody").tenant_sandboxes, u32::MAX);
}

#[tokio::test]
async fn what_is_provisioned_is_ordered_without_a_call_and_says_why_it_fails() {
    let mut bed = bed(1000, Limits::default());
    let two = Limits { provisioned: 2, ..Limits::default() };
    bed.pool.limit(&bed.key, two);
    let order = bed.order().await;
    assert!(matches!(order.task, Some(Task::Cold(Some(_)))), "{:?}", order.task);
    let standing = bed.pool.provisioned(&bed.key);
    assert_eq!((standing.there, standing.up, standing.failure.is_some()), (1, 0, false));
    assert!(bed.pool.sandboxes()[0].provisioned);
    let report = order.lease.as_ref().expect("a lease").report();
    drop(order.lease);
    report.fail(&bed.key, StartFailure::Init(b"{}".to_vec()), Duration::ZERO);
    drop(report);
    drop(order.task);
    let standing = bed.pool.provisioned(&bed.key);
    assert!(matches!(standing.failure.as_deref(), Some(StartFailure::Init(_))), "{standing:?}");
    assert_eq!((standing.there, standing.up), (0, 0));
    // Again after a while, and at once when somebody wants more.
    drop(bed.order().await);
    bed.pool.limit(&bed.key, Limits { provisioned: 3, ..two });
    assert!(bed.pool.provisioned(&bed.key).failure.is_none());
    drop(bed.order().await);
    bed.pool.limit(&bed.key, Limits::default());
    let usage = bed.pool.usage();
    assert_eq!((usage.alive, usage.memory_mb), (0, 0));
}

#[tokio::test]
async fn what_is_withheld_is_not_started_in() {
    let mut bed = bed(1000, Limits::default());
    bed.pool.withhold(1000);
    assert_eq!((bed.pool.usage().withheld_mb, bed.pool.booked_mb()), (1000, 0));
    let (_alive, call) = bed.call(Want::Auto, PATIENCE);
    bed.waiting(1).await;
    assert!(bed.orders.try_recv().is_err());
    bed.pool.withhold(0);
    drop(bed.order().await);
    drop(call);
}
