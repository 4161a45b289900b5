//! How frames find their endpoint: by a program that chooses the queue; where the kernel has none of that, by a device
//! per endpoint and a route to each.

use std::io;

use crate::bpf::BpfError;
use crate::netlink::Netlink;
use crate::network::Shape;
use crate::plan::{Layout, Subnet};
use crate::tap::{Sources, Tap, TapError};

/// What eBPF may be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ebpf {
    /// Whatever the kernel offers.
    #[default]
    All,
    /// Not for steering, as on a kernel without `TUNSETSTEERINGEBPF`.
    Guards,
    /// Nothing, as on a kernel without bpf(2), or where this process may not use it.
    None,
}

/// How frames find their endpoint.
#[derive(Debug)]
pub enum Steering {
    /// A program chooses among 256 queues of a device, and others check the sources.
    Ebpf,
    /// Every endpoint has a device, and routes of its own: what attaching costs stays the same, what making costs grows
    /// by four netlink calls per endpoint, and up to four descriptors.
    TapPerEndpoint {
        /// What the kernel has not; nothing if this was asked for.
        reason: Option<TapError>,
        /// What checks the sources.
        sources: Sources,
    },
}

impl Steering {
    /// How endpoints are shared out among devices.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Ebpf => Layout::Shared,
            Self::TapPerEndpoint { .. } => Layout::Own,
        }
    }
}

/// The ways from the best on: with what eBPF allowed, which devices, which checks.
const WAYS: [(Ebpf, Layout, Sources); 3] = [
    (Ebpf::All, Layout::Shared, Sources::Programs),
    (Ebpf::Guards, Layout::Own, Sources::Programs),
    (Ebpf::None, Layout::Own, Sources::Routes),
];

/// Makes the devices in the calling thread's namespace, in the best way there is.
pub(crate) fn devices(
    subnet: &Subnet,
    endpoints: u16,
    shape: &Shape,
    netlink: &Netlink,
) -> Result<(Vec<Tap>, Steering), TapError> {
    let mut reason = None;
    for (_, layout, sources) in WAYS.into_iter().skip_while(|(ebpf, ..)| *ebpf != shape.ebpf) {
        let taps = subnet.taps(endpoints, layout);
        match taps.map(|plan| Tap::create(&plan, shape.mtu.into(), sources, netlink)).collect() {
            Ok(taps) => {
                let steering = match layout {
                    Layout::Shared => Steering::Ebpf,
                    Layout::Own => Steering::TapPerEndpoint { reason, sources },
                };
                return Ok((taps, steering));
            }
            // What was made so far is gone again. The last way needs nothing that could be lacking.
            Err(error) if lacking(&error) => reason = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(reason.unwrap_or(TapError::Open(io::ErrorKind::Unsupported.into())))
}

/// Whether it is eBPF that is missing, or may not be used.
fn lacking(error: &TapError) -> bool {
    let source = match error {
        TapError::Steering { source, .. } => source,
        TapError::Guard {
            source:
                BpfError::Load { source, .. } | BpfError::Map { source, .. } | BpfError::Attach { source, .. },
            ..
        } => source,
        _ => return false,
    };
    const NONE: [i32; 6] =
        [libc::EPERM, libc::EACCES, libc::EINVAL, libc::ENOSYS, libc::ENOTTY, libc::EOPNOTSUPP];
    source.raw_os_error().is_some_and(|errno| NONE.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_has_not_leads_to_another_way() {
        let name = || "tap0".to_owned();
        let errno = io::Error::from_raw_os_error;
        let guard = |source| TapError::Guard { name: name(), source: BpfError::Map { entries: 1, source } };
        let steering = |source| TapError::Steering { name: name(), source };
        assert!(lacking(&steering(errno(libc::ENOTTY))) && lacking(&steering(errno(libc::EINVAL))));
        assert!(lacking(&guard(errno(libc::EPERM))) && lacking(&guard(errno(libc::ENOSYS))));
        assert!(!lacking(&guard(errno(libc::EMFILE))) && !lacking(&guard(errno(libc::ENOMEM))));
        assert!(!lacking(&TapError::Open(errno(libc::EPERM))));
    }
}
