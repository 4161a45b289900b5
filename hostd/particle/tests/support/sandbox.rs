//! Sandboxes that are processes: this test program once more, in a cgroup and a namespace, told what to do line by line.

// Every test program uses some of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mote_particle::netns::Netns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const CHILD: &str = "MOTE_TEST_SANDBOX";

/// Bound on a connection that is to be, and on one that is not.
const PATIENCE: Duration = Duration::from_millis(400);

/// A cgroup, removed with all its processes when dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

impl Folder {
    /// One of the test's own; says so if there can be none.
    pub fn top() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let folder = words.next()?;
            (words.next()? == "cgroup2").then(|| PathBuf::from(folder))
        });
        let name = format!("mote-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let made = root.and_then(|root| Self::make(root.join(name)).ok());
        if made.is_none() {
            println!("skipped: needs a cgroup v2 that can be written to");
        }
        made
    }

    pub fn child(&self, name: &str) -> Self {
        Self::make(self.path.join(name)).unwrap()
    }

    fn make(path: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir(&path)?;
        let fd = std::fs::File::open(&path)?.into();
        Ok(Self { path, fd })
    }

    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::write(self.path.join("cgroup.kill"), "1");
        let end = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.path).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a sandbox answers: text, or an error of the kernel's.
pub type Answer = Result<String, rustix::io::Errno>;

/// A process.
#[derive(Debug)]
pub struct Sandbox {
    child: Child,
    lines: BufReader<UnixStream>,
}

impl Sandbox {
    /// A process in a namespace and a cgroup.
    pub fn start(netns: &Netns, folder: &Folder) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let procs = std::fs::File::create(folder.path().join("cgroup.procs")).unwrap();
        let netns = netns.as_fd().try_clone_to_owned().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sandbox_process", "--nocapture"]).env(CHILD, "1");
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let enter = move || {
            rustix::io::write(&procs, b"0")?;
            rustix::thread::move_into_link_name_space(
                netns.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )?;
            Ok(())
        };
        // SAFETY: only system calls on descriptors that are open already.
        unsafe { command.pre_exec(enter) };
        let child = command.spawn().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { child, lines: BufReader::new(ours) }
    }

    /// Does as it is told.
    pub fn tell(&mut self, line: &str) -> Answer {
        self.lines.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.lines.read_line(&mut answer).unwrap();
        match answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), "")) {
            ("ok", text) => Ok(text.to_owned()),
            ("error", number) => Err(rustix::io::Errno::from_raw_os_error(number.parse().unwrap())),
            _ => panic!("{line}: {answer}"),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The life of a sandbox; nothing in the test program itself.
pub fn serve() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    // SAFETY: the standard input is the socket the parent made, and nobody here uses it otherwise.
    let mut stream = unsafe { UnixStream::from_raw_fd(0) };
    let mut sockets = Vec::new();
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let Ok(line) = line else { return };
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match obey(&words, &mut sockets) {
            Ok(text) => format!("ok {text}\n"),
            Err(errno) => format!("error {}\n", errno.raw_os_error()),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// `WHAT SOCKET …`: sockets are numbered in the order they are made.
fn obey(words: &[&str], sockets: &mut Vec<OwnedFd>) -> Answer {
    let at = |word: &str| word.parse::<SocketAddr>().unwrap();
    let Some((what, rest)) = words.split_first() else { panic!("nothing to do") };
    if let ["socket", family, kind, protocol] = words {
        let family = if *family == "6" { AddressFamily::INET6 } else { AddressFamily::INET };
        let kind = match *kind {
            "tcp" => SocketType::STREAM,
            "udp" => SocketType::DGRAM,
            "raw" => SocketType::RAW,
            _ => panic!("{kind}"),
        };
        let protocol = std::num::NonZeroU32::new(protocol.parse().unwrap());
        let protocol = protocol.map(rustix::net::Protocol::from_raw);
        sockets.push(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?);
        return Ok((sockets.len() - 1).to_string());
    }
    let number: usize = rest[0].parse().unwrap();
    let socket = sockets[number].as_fd();
    match (*what, &rest[1..]) {
        ("bind", [to]) => rustix::net::bind(socket, &at(to))?,
        ("listen", []) => rustix::net::listen(socket, 8)?,
        ("connect", [to]) => {
            rustix::io::ioctl_fionbio(socket, true)?;
            match rustix::net::connect(socket, &at(to)) {
                Err(rustix::io::Errno::INPROGRESS) => {
                    wait(socket, PollFlags::OUT)?;
                    rustix::net::sockopt::socket_error(socket)??;
                }
                done => done?,
            }
        }
        ("accept", []) => {
            wait(socket, PollFlags::IN)?;
            let (accepted, from) = rustix::net::acceptfrom(socket)?;
            sockets.push(accepted);
            return Ok(plain(from.unwrap().try_into().unwrap()));
        }
        ("send", [to, text]) => {
            rustix::net::sendto(socket, text.as_bytes(), SendFlags::NOSIGNAL, &at(to)).map(drop)?;
        }
        ("say", [text]) => rustix::net::send(socket, text.as_bytes(), SendFlags::NOSIGNAL).map(drop)?,
        ("say-from", [from, text]) => say_from(socket, from.parse().unwrap(), text)?,
        ("hear", []) => {
            wait(socket, PollFlags::IN)?;
            let mut text = [0; 100];
            let (length, _, from) = rustix::net::recvfrom(socket, &mut text, RecvFlags::empty())?;
            let from = from.map(|from| plain(from.try_into().unwrap())).unwrap_or_default();
            return Ok(format!("{from} {}", String::from_utf8_lossy(&text[..length])));
        }
        ("name", []) => {}
        _ => panic!("{words:?}"),
    }
    Ok(plain(rustix::net::getsockname(sockets[number].as_fd())?.try_into().unwrap()))
}

/// An address as it is, whatever the socket's family.
fn plain(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

fn wait(socket: std::os::fd::BorrowedFd<'_>, flags: PollFlags) -> rustix::io::Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(socket, flags)];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    if poll(&mut fds, Some(&patience))? == 0 { Err(rustix::io::Errno::TIMEDOUT) } else { Ok(()) }
}

/// Sends from a connected socket with a source of the sender's choice (`IP_PKTINFO`, `IPV6_PKTINFO`).
fn say_from(socket: std::os::fd::BorrowedFd<'_>, from: IpAddr, text: &str) -> rustix::io::Result<()> {
    #[repr(C, align(8))]
    struct Control {
        header: libc::cmsghdr,
        data: [u8; 24],
    }
    let (level, kind, data): (i32, i32, Vec<u8>) = match from {
        IpAddr::V4(from) => (libc::IPPROTO_IP, libc::IP_PKTINFO, v4_info(from)),
        IpAddr::V6(from) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, v6_info(from)),
    };
    let length = size_of::<libc::cmsghdr>() + data.len();
    let mut control = Control {
        header: libc::cmsghdr { cmsg_len: length, cmsg_level: level, cmsg_type: kind },
        data: [0; 24],
    };
    control.data[..data.len()].copy_from_slice(&data);
    let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    // SAFETY: zeros are a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = length.next_multiple_of(8);
    // SAFETY: the message and what it points to live longer than the call.
    match unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) } {
        sent if sent < 0 => Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
        _ => Ok(()),
    }
}

fn v4_info(from: Ipv4Addr) -> Vec<u8> {
    [[0; 4], from.octets(), [0; 4]].concat()
}

fn v6_info(from: Ipv6Addr) -> Vec<u8> {
    [&from.octets()[..], &[0; 4]].concat()
}
