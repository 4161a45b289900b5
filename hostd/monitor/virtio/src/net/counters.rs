//! What passed and what did not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counts since the device was made; a restored device starts from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetCounts {
    /// Frames from the guest that were sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames the guest was given.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames from the guest while there was no network.
    pub tx_detached: u64,
    /// Frames from the guest whose buffers, headers or lengths are none.
    pub tx_malformed: u64,
    /// Frames from the guest that are neither IPv4 nor IPv6.
    pub tx_protocol: u64,
    /// Frames from the guest under an address that is not its own.
    pub tx_source: u64,
    /// Frames from the guest that the host's network refused.
    pub tx_refused: u64,
    /// Frames for the guest that do not fit into its buffers.
    pub rx_oversized: u64,
    /// Frames for the guest of a kind its driver does not know.
    pub rx_unsupported: u64,
}

/// The counters of a device, which may be read while it works.
#[derive(Clone, Debug, Default)]
pub struct NetCounters(Arc<[AtomicU64; Count::ALL]>);

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    TxFrames,
    TxBytes,
    RxFrames,
    RxBytes,
    TxDetached,
    TxMalformed,
    TxProtocol,
    TxSource,
    TxRefused,
    RxOversized,
    RxUnsupported,
}

impl Count {
    const ALL: usize = Self::RxUnsupported as usize + 1;
}

impl NetCounters {
    /// The counts now.
    pub fn read(&self) -> NetCounts {
        let get = |count| self.get(count);
        NetCounts {
            tx_frames: get(Count::TxFrames),
            tx_bytes: get(Count::TxBytes),
            rx_frames: get(Count::RxFrames),
            rx_bytes: get(Count::RxBytes),
            tx_detached: get(Count::TxDetached),
            tx_malformed: get(Count::TxMalformed),
            tx_protocol: get(Count::TxProtocol),
            tx_source: get(Count::TxSource),
            tx_refused: get(Count::TxRefused),
            rx_oversized: get(Count::RxOversized),
            rx_unsupported: get(Count::RxUnsupported),
        }
    }

    fn get(&self, count: Count) -> u64 {
        self.0.get(count as usize).map_or(0, |value| value.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, count: Count, amount: u64) {
        if let Some(value) = self.0.get(count as usize) {
            value.fetch_add(amount, Ordering::Relaxed);
        }
    }
}
