//! The packet header (5.10.6), 44 bytes, little endian.

/// Bytes of a header.
pub(super) const HEADER: usize = 44;

/// The only socket type offered: VIRTIO_VSOCK_TYPE_STREAM.
pub(super) const TYPE_STREAM: u16 = 1;

/// The sender will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both: the connection is over.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// Open a connection.
    Request = 1,
    /// Accept it.
    Response = 2,
    /// No such connection, or no longer.
    Reset = 3,
    /// No more in the direction(s) of the flags.
    Shutdown = 4,
    /// Bytes.
    Data = 5,
    /// How much may be sent.
    CreditUpdate = 6,
    /// Ask for that.
    CreditRequest = 7,
}

impl Op {
    const ALL: [Self; 7] = [
        Self::Request,
        Self::Response,
        Self::Reset,
        Self::Shutdown,
        Self::Data,
        Self::CreditUpdate,
        Self::CreditRequest,
    ];

    /// The operation with this number, if there is one.
    pub(super) fn from_wire(value: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.to_wire() == value)
    }

    pub(super) const fn to_wire(self) -> u16 {
        self as u16
    }
}

/// A packet header as it travels; no field has been checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Self {
        let mut at = 0;
        Self {
            src_cid: u64::from_le_bytes(take(bytes, &mut at)),
            dst_cid: u64::from_le_bytes(take(bytes, &mut at)),
            src_port: u32::from_le_bytes(take(bytes, &mut at)),
            dst_port: u32::from_le_bytes(take(bytes, &mut at)),
            len: u32::from_le_bytes(take(bytes, &mut at)),
            kind: u16::from_le_bytes(take(bytes, &mut at)),
            op: u16::from_le_bytes(take(bytes, &mut at)),
            flags: u32::from_le_bytes(take(bytes, &mut at)),
            buf_alloc: u32::from_le_bytes(take(bytes, &mut at)),
            fwd_cnt: u32::from_le_bytes(take(bytes, &mut at)),
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.concat()) {
            *to = from;
        }
        bytes
    }

    /// The reset that answers this packet; `None` if it is one itself.
    pub(super) fn reset(&self) -> Option<Self> {
        (self.op != Op::Reset.to_wire()).then(|| Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            // The guest finds its socket by type as well: a sequential-packet one must hear no too.
            kind: self.kind,
            op: Op::Reset.to_wire(),
            ..Self::default()
        })
    }
}

/// The `N` bytes at `at`, which moves on.
fn take<const N: usize>(bytes: &[u8; HEADER], at: &mut usize) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(&bytes[*at..]) {
        *to = *from;
    }
    *at += N;
    field
}
