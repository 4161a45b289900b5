//! virtio-mmio transport and devices of the monitor: block, vsock, rng.
