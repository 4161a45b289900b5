"""Odd machines: changes to QEMU's command line, to be given to an `Appliance` as `hardware`."""

from pathlib import Path


def clock_at(moment: str):
    """The hardware clock says this when the machine is switched on."""
    # Counted by the machine's own time: by this machine's, QEMU is wrong from 68 years off on.
    return lambda argv: [*argv, "-rtc", f"base={moment},clock=vm"]


def without_uart(argv: list) -> list:
    at = argv.index("-serial")
    return argv[:at] + argv[at + 2:]


def without_kvm(argv: list) -> list:
    """Processors that cannot run virtual machines."""
    at = argv.index("-cpu") + 1
    return [*argv[:at], f"{argv[at]},svm=off,vmx=off", *argv[at + 1:]]


def with_watchdog(argv: list) -> list:
    """A timer that resets the machine."""
    return [*argv, "-device", "i6300esb", "-action", "watchdog=reset"]


def with_screen(argv: list) -> list:
    """What machines with one are booted with."""
    at = argv.index("-append") + 1
    return [*argv[:at], f"console=tty0 {argv[at]}", *argv[at + 1:], "-device", "VGA"]


def with_a_dead_cable(argv: list) -> list:
    """A second network card, connected to a switch on which nobody answers."""
    return [*argv, "-netdev", "hubport,id=dead,hubid=7", "-device", "virtio-net-pci,netdev=dead,romfile="]


def without_network(argv: list) -> list:
    """No network card."""
    at = argv.index("-netdev")
    return argv[:at] + argv[at + 4:]


def _data(change):
    """Changes the data disk's drive."""
    def reshape(argv):
        return [change(word) if word.startswith("if=none,id=data,") else word for word in argv]

    return reshape


write_protected = _data(lambda word: f"{word},readonly=on")


def with_dying_sector(sector: int, folder: Path):
    """Reads of this sector of the data disk fail, always."""
    rules = folder / "dying.conf"
    rules.write_text(
        f'[inject-error]\nevent = "none"\niotype = "read"\nerrno = "5"\nsector = "{sector}"\nonce = "off"\n'
    )
    return _data(lambda word: word.replace("file=", f"file=blkdebug:{rules}:"))


def all_of(*changes):
    def reshape(argv):
        for change in changes:
            argv = change(argv)
        return argv

    return reshape
