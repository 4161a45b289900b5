//! System calls a thread may make (seccomp), for tests of what is not done.

use std::ffi::c_long;

/// Jump if equal, load a word, return: linux/bpf_common.h.
const EQUAL: u16 = 0x15;
const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;

/// Places in `struct seccomp_data`.
const NUMBER: u32 = 0;
const SECOND_ARGUMENT: u32 = 24;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

/// Refuses all calls but those from now on, with `EPERM`, to the calling thread and those it starts.
pub fn only(calls: &[c_long]) {
    let mut program = vec![statement(LOAD, NUMBER)];
    for call in calls {
        program.extend([equal(u32::try_from(*call).unwrap(), 0, 1), statement(RETURN, ALLOW)]);
    }
    program.push(statement(RETURN, ERRNO | libc::EPERM.cast_unsigned()));
    install(&mut program);
}

/// Refuses one call from now on; of `ioctl` and the like, with one second argument.
pub fn never(call: c_long, second: Option<u32>, errno: i32) {
    let mut program = vec![statement(LOAD, NUMBER)];
    let refuse = statement(RETURN, ERRNO | errno.cast_unsigned());
    let number = u32::try_from(call).unwrap();
    match second {
        None => program.extend([equal(number, 0, 1), refuse]),
        Some(second) => program.extend([
            equal(number, 0, 3),
            statement(LOAD, SECOND_ARGUMENT),
            equal(second, 0, 1),
            refuse,
        ]),
    }
    program.push(statement(RETURN, ALLOW));
    install(&mut program);
}

fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn equal(k: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter { code: EQUAL, jt: yes, jf: no, k }
}

fn install(program: &mut [libc::sock_filter]) {
    rustix::thread::set_no_new_privs(true).unwrap();
    let program =
        libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives longer than the call.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
