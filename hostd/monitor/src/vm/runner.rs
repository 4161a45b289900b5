//! The vCPU threads: running, stopping, saving.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuExit;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::exit::{ExitReason, ExitSignal};
use super::state::VcpuState;
use super::vcpu::{Vcpu, VcpuError};

/// Bound on every wait for a vCPU thread. It only ever has to leave the guest and finish one device access.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the end of a thread is looked for.
const JOIN_STEP: Duration = Duration::from_millis(1);

/// Where accesses of the guest go that KVM does not serve itself.
pub(crate) trait VcpuBus: Send + Sync {
    /// `in`: fills `data`.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// `out`.
    fn port_write(&self, port: u16, data: &[u8]);
    /// A load outside memory: fills `data`.
    fn mmio_read(&self, address: u64, data: &mut [u8]);
    /// A store outside memory.
    fn mmio_write(&self, address: u64, data: &[u8]);
}

/// vCPU threads cannot be started or commanded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrewError {
    /// A thread or its signal handler cannot be made.
    #[error("Cannot start vCPU threads")]
    Start(#[source] io::Error),
    /// A thread did not answer in time.
    #[error("vCPU {vcpu} did not {what} within {} s", PATIENCE.as_secs())]
    Timeout {
        /// Which vCPU.
        vcpu: usize,
        /// What was asked.
        what: &'static str,
    },
    /// A thread is gone.
    #[error("The thread of vCPU {0} ended")]
    Gone(usize),
    /// Saving failed.
    #[error("Cannot save vCPUs")]
    Save(#[source] VcpuError),
}

enum Command {
    Run(SyncSender<()>),
    Stop(SyncSender<()>),
    Save(Arc<[u32]>, SyncSender<Result<Box<VcpuState>, VcpuError>>),
}

/// The byte in the page shared with KVM that makes `KVM_RUN` return at once. It is set from outside the vCPU's
/// thread before that thread is signalled: so it does not matter whether the signal meets the thread in the guest or
/// on the way there.
#[derive(Debug)]
struct ImmediateExit(Mutex<Option<*const AtomicU8>>);

// SAFETY: the pointer is only used under the lock and while the mapping lives: the vCPU's thread clears it before it
// drops the vCPU.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn new(vcpu: &mut Vcpu) -> Self {
        let byte: *mut u8 = &raw mut vcpu.fd.get_kvm_run().immediate_exit;
        Self(Mutex::new(Some(byte.cast::<AtomicU8>().cast_const())))
    }

    fn with(&self, access: impl FnOnce(&AtomicU8) -> u8) -> u8 {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *slot {
            // SAFETY: the mapping is alive as long as the slot is filled, and the byte is only accessed atomically
            // on our side.
            Some(byte) => access(unsafe { &*byte }),
            None => 1,
        }
    }

    fn set(&self, value: u8) {
        self.with(|byte| byte.swap(value, Ordering::SeqCst));
    }

    fn get(&self) -> u8 {
        self.with(|byte| byte.load(Ordering::SeqCst))
    }

    fn retire(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[derive(Debug)]
struct Member {
    commands: Option<SyncSender<Command>>,
    immediate_exit: Arc<ImmediateExit>,
    thread: Option<JoinHandle<()>>,
}

/// All vCPU threads of a microVM. They start standing still.
#[derive(Debug)]
pub(crate) struct Crew {
    members: Vec<Member>,
}

/// Only there so that the signal interrupts `KVM_RUN` instead of ending the process.
extern "C" fn kick_handler(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Crew {
    /// Starts a thread per vCPU.
    pub(crate) fn start(
        vcpus: Vec<Vcpu>,
        bus: &Arc<dyn VcpuBus>,
        exit: &Arc<ExitSignal>,
    ) -> Result<Self, CrewError> {
        register_signal_handler(SIGRTMIN(), kick_handler)
            .map_err(|error| CrewError::Start(io::Error::from_raw_os_error(error.errno())))?;
        let mut crew = Self { members: Vec::new() };
        for mut vcpu in vcpus {
            // One command at a time is ever under way.
            let (commands, orders) = mpsc::sync_channel(1);
            let immediate_exit = Arc::new(ImmediateExit::new(&mut vcpu));
            let worker = Worker {
                vcpu,
                bus: Arc::clone(bus),
                exit: Arc::clone(exit),
                orders,
                immediate_exit: Arc::clone(&immediate_exit),
            };
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{}", worker.vcpu.id))
                .spawn(move || worker.main())
                .map_err(CrewError::Start)?;
            crew.members.push(Member { commands: Some(commands), immediate_exit, thread: Some(thread) });
        }
        Ok(crew)
    }

    fn send(&self, index: usize, command: Command) -> Result<(), CrewError> {
        let member = self.members.get(index).ok_or(CrewError::Gone(index))?;
        let commands = member.commands.as_ref().ok_or(CrewError::Gone(index))?;
        member.immediate_exit.set(1);
        commands.try_send(command).map_err(|error| match error {
            // It has not taken the last one yet.
            TrySendError::Full(_) => CrewError::Timeout { vcpu: index, what: "take an order" },
            TrySendError::Disconnected(_) => CrewError::Gone(index),
        })?;
        member.kick();
        Ok(())
    }

    /// Sends a command to every vCPU, then collects every answer: they work at the same time.
    fn all<T>(
        &self,
        what: &'static str,
        command: impl Fn(SyncSender<T>) -> Command,
    ) -> Result<Vec<T>, CrewError> {
        let mut answers = Vec::new();
        for index in 0..self.members.len() {
            let (answer, receiver) = mpsc::sync_channel(1);
            self.send(index, command(answer))?;
            answers.push(receiver);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut collected = Vec::new();
        for (index, receiver) in answers.into_iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            collected.push(receiver.recv_timeout(left).map_err(|error| match error {
                RecvTimeoutError::Timeout => CrewError::Timeout { vcpu: index, what },
                RecvTimeoutError::Disconnected => CrewError::Gone(index),
            })?);
        }
        Ok(collected)
    }

    /// Lets all vCPUs run. Answered before it returns, so that a stop right after it cannot be overtaken.
    pub(crate) fn run(&self) -> Result<(), CrewError> {
        self.all("go on", Command::Run).map(drop)
    }

    /// Stops all vCPUs, each after it has completed its last device access.
    pub(crate) fn stop(&self) -> Result<(), CrewError> {
        self.all("stop", Command::Stop).map(drop)
    }

    /// State of all vCPUs, in order. They must have been stopped.
    pub(crate) fn save(&self, msrs: &[u32]) -> Result<Vec<VcpuState>, CrewError> {
        let msrs: Arc<[u32]> = msrs.into();
        let states = self.all("save its state", |answer| Command::Save(Arc::clone(&msrs), answer))?;
        states.into_iter().map(|state| state.map(|state| *state).map_err(CrewError::Save)).collect()
    }
}

impl Member {
    fn kick(&self) {
        if let Some(thread) = &self.thread {
            // Fails only when the thread is gone, which the channel reports.
            let _ = thread.kill(SIGRTMIN());
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            // A worker without orders ends.
            member.immediate_exit.set(1);
            member.commands = None;
            member.kick();
        }
        let deadline = Instant::now() + PATIENCE;
        for member in &mut self.members {
            let Some(thread) = member.thread.take() else { continue };
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(JOIN_STEP);
            }
            if thread.is_finished() {
                // A panic of the worker was reported when it happened.
                let _ = thread.join();
            }
        }
    }
}

/// What a vCPU's thread works with.
struct Worker {
    vcpu: Vcpu,
    bus: Arc<dyn VcpuBus>,
    exit: Arc<ExitSignal>,
    orders: Receiver<Command>,
    immediate_exit: Arc<ImmediateExit>,
}

impl Worker {
    fn main(mut self) {
        while let Ok(order) = self.orders.recv() {
            match order {
                Command::Run(done) => {
                    self.immediate_exit.set(0);
                    self.vcpu.clock_paused();
                    // Nobody listens any more only when the monitor ends, and then the channel is closed too.
                    let _ = done.send(());
                    self.guest();
                }
                Command::Stop(done) => {
                    let _ = done.send(());
                }
                Command::Save(msrs, answer) => {
                    let _ = answer.send(self.vcpu.save(&msrs).map(Box::new));
                }
            }
        }
        self.immediate_exit.retire();
    }

    /// Runs the guest until the vCPU is told to stop or cannot go on.
    fn guest(&mut self) {
        loop {
            let failure = match self.vcpu.fd.run() {
                Ok(VcpuExit::IoIn(port, data)) => {
                    self.bus.port_read(port, data);
                    continue;
                }
                Ok(VcpuExit::IoOut(port, data)) => {
                    self.bus.port_write(port, data);
                    continue;
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    self.bus.mmio_read(address, data);
                    continue;
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    self.bus.mmio_write(address, data);
                    continue;
                }
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => continue,
                // An order is waiting (KVM_RUN completes what the last exit began before it says so), or a signal
                // came by that means nothing.
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                    if self.pending() {
                        return;
                    }
                    continue;
                }
                Ok(VcpuExit::Shutdown) => "triple fault".to_owned(),
                Ok(VcpuExit::Hlt) => "halted for good".to_owned(),
                Ok(VcpuExit::FailEntry(reason, _)) => format!("processor refused entry, reason {reason:#x}"),
                Ok(VcpuExit::InternalError) => String::new(),
                Ok(other) => format!("unexpected exit {other:?}"),
                Err(error) => format!("KVM_RUN failed: {error}"),
            };
            let failure = if failure.is_empty() { self.internal_error() } else { failure };
            let at = self.vcpu.fd.get_regs().map(|regs| regs.rip).unwrap_or_default();
            let reason = format!("vCPU {}: {failure} at {at:#x}", self.vcpu.id);
            self.exit.raise(ExitReason::Failed(reason));
            return;
        }
    }

    /// Whether an order waits. The byte is set before an order is sent, so it may be a little early: the next
    /// `KVM_RUN` returns at once, and this is asked again.
    fn pending(&self) -> bool {
        self.immediate_exit.get() != 0
    }

    /// What KVM says about an internal error.
    fn internal_error(&mut self) -> String {
        let run = self.vcpu.fd.get_kvm_run();
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, for which this member of the union is the filled one.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let count = usize::try_from(internal.ndata).unwrap_or_default();
        let data = internal.data.get(..count.min(internal.data.len())).unwrap_or_default();
        format!("KVM internal error {} {data:x?}", internal.suberror)
    }
}
