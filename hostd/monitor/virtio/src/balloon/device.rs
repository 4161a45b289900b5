//! The balloon device.

pub use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON as DEVICE_TYPE;

use super::control::{BalloonControl, Question, Shared};
use super::persist::{self, BalloonState};
use super::{BUDGET, DEFLATE, INFLATE, SIZE, STATISTICS, pages, statistics};
use crate::{ActivateError, DeviceIo, DeviceState, RestoreDeviceError, VirtioDevice};

/// `VIRTIO_BALLOON_F_STATS_VQ`, and `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`: the guest takes pages back rather than kill.
/// Not `MUST_TELL_HOST`: there is nothing to be done before a page is used again.
const FEATURES: u64 = 1 << 1 | 1 << 2;

/// Takes pages from the guest and gives them to the host.
#[derive(Debug, Default)]
pub struct Balloon {
    control: BalloonControl,
    /// A guest that was saved with pages given, or asked for, has to learn that none are wanted any more.
    stale: bool,
}

impl Balloon {
    /// An empty balloon.
    pub fn new() -> Self {
        Self::default()
    }

    /// The host's end.
    pub fn control(&self) -> BalloonControl {
        self.control.clone()
    }

    fn inflate(&self, io: &mut DeviceIo) {
        let mut given = 0u32;
        io.serve(INFLATE, BUDGET, |mem, chain| {
            let runs = pages::named(mem, chain);
            pages::give_back(mem, &runs);
            given = given.saturating_add(pages::count(&runs));
            Some(0)
        });
        let mut shared = self.control.lock();
        // However often the guest names a page, it has no more than there are.
        shared.held = shared.held.saturating_add(given).min(pages::all(&io.mem));
    }

    fn deflate(&self, io: &mut DeviceIo) {
        let mut used = 0u32;
        io.serve(DEFLATE, BUDGET, |mem, chain| {
            used = used.saturating_add(pages::count(&pages::named(mem, chain)));
            Some(0)
        });
        let mut shared = self.control.lock();
        shared.held = shared.held.saturating_sub(used);
    }

    /// Tells the guest what is wanted, puts a question, takes an answer: whichever there is.
    fn wishes(&self, io: &mut DeviceIo) {
        let question = {
            let mut shared = self.control.lock();
            if std::mem::take(&mut shared.untold) {
                // Fails only when the counter is full, and then the line is raised anyway.
                let _ = io.interrupt.signal_config();
            }
            shared.question
        };
        let next = match question {
            // The buffer lies in the queue with old figures in it; given back, it is filled anew.
            Question::Wished if give_buffer(io) => Question::Put,
            Question::Put => match answer(io) {
                Some(free) => Question::Answered(free),
                None => return,
            },
            _ => return,
        };
        self.control.lock().question = next;
    }
}

/// Gives the driver its buffer back, if it lies there.
fn give_buffer(io: &mut DeviceIo) -> bool {
    let mut given = false;
    io.serve(STATISTICS, 1, |_, _| {
        given = true;
        Some(0)
    });
    given
}

/// Reads what is in the buffer, if it lies there, and leaves it for the next question.
fn answer(io: &mut DeviceIo) -> Option<u64> {
    let mut free = None;
    io.serve(STATISTICS, 1, |mem, chain| {
        free = statistics::free(mem, chain);
        None
    });
    free
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[SIZE, SIZE, SIZE]
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_balloon_config: num_pages, actual. The driver writes the second, too, and says by it what is
        // counted here from the queues.
        let shared = self.control.lock();
        let mut config = [0u8; 8];
        config[..4].copy_from_slice(&shared.target.to_le_bytes());
        config[4..].copy_from_slice(&shared.held.to_le_bytes());
        crate::device::copy_config(&config, offset, data);
    }

    fn activate(&mut self, io: &mut DeviceIo) -> Result<(), ActivateError> {
        if std::mem::take(&mut self.stale) {
            let _ = io.interrupt.signal_config();
        }
        Ok(())
    }

    fn reset(&mut self) {
        // The driver takes its pages with it; what was wanted was wanted of a guest that is no more.
        *self.control.lock() = Shared::default();
    }

    fn queue_event(&mut self, index: usize, io: &mut DeviceIo) {
        match index {
            INFLATE => self.inflate(io),
            DEFLATE => self.deflate(io),
            _ => self.wishes(io),
        }
    }

    fn save(&self) -> DeviceState {
        let shared = self.control.lock();
        DeviceState::Balloon(BalloonState { target: shared.target, held: shared.held })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreDeviceError> {
        let state = persist::check(state)?;
        // Nobody wants anything of the restored guest yet.
        self.stale = state.target != 0 || state.held != 0;
        self.control.lock().held = state.held;
        Ok(())
    }
}
