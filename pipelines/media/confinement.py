"""Take from a process what decoding does not need: files, sockets, other programs, other processes.

Three pieces of Linux, none of which can be undone and none of which needs a privilege:

- `no_new_privs`: no program it starts gains rights by set-uid.
- Landlock (Linux 5.13): it opens no file but those of the interpreter, the libraries and this
  package, which are imported as they are needed, and these for reading only; it makes, removes and
  renames none. It reads no memory of a process outside, and with Linux 6.7 and 6.12 it reaches no
  TCP port, no abstract socket and no process with a signal, whatever becomes of seccomp.
- seccomp (x86_64 and aarch64): it makes no socket of any kind, no process, runs no program, and
  changes no file's mode, owner, times or attributes, which Landlock does not cover.

Where the kernel or a container's own filter lacks a piece, the process goes on without that piece
and nothing is printed. Without Landlock it can open what its user can: files, and the memory of
other processes of the user. It keeps, always: its three pipes, standard error, the clock, and the
metadata (names, sizes, times) of files whose path it knows.

The registry's bindings are an alpha (py-landlock) and one that needs a library of the system
(pyseccomp); what is asked of either is three system calls.
"""

import ctypes
import errno
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
# Landlock. The numbers of these calls are the same on every architecture.
_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION = 1
_PATH_BENEATH = 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many the kernel's version knows; 16 since the fifth
_NET_VERSION = 4
_SCOPE_VERSION = 6
_LIBRARIES = ("numpy", "PIL", "tifffile", "av")

# seccomp: struct sock_filter's codes, struct seccomp_data's offsets, and what it answers.
_LOAD = 0x20
_EQUAL = 0x15
_AT_LEAST = 0x35
_ANY_BIT = 0x45
_RETURN = 0x06
_NUMBER_AT = 0
_ARCH_AT = 4
_ARGUMENTS_AT = 16
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000
_KILL = 0x80000000
_SET_FILTER = 1
# Flags: for all threads, and without the barriers against speculation that kernels before 5.16 put
# into a process with a filter.
_FLAGS = 0b101
_X32 = 0x40000000  # calls of the x32 interface, which would pass by other numbers
_CLONE_THREAD = 0x00010000
_TIOCSTI = 0x5412  # types on the user's terminal

# The architecture's name to the kernel, and the number of seccomp(2).
_ARCHITECTURES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
# Numbers on x86_64 and on aarch64, None where it has no such call.
_REFUSED: dict[str, tuple[int, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "io_uring_setup": (425, 425),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_by_handle_at": (304, 265),
    "mq_open": (240, 180),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_IOCTL = (16, 29)
_KILL_PROCESS = (62, 129)
_TGKILL = (234, 131)
_PRLIMIT = (302, 261)


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def confine() -> None:
    """Give up, for good, what decoding does not need; pieces that are not there are left out.

    To be called while the process has one thread: Landlock holds for the caller and for the threads
    it starts later.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return  # the others are refused without it
    _confine_files(libc)
    _confine_calls(libc)


def landlock_version() -> int:
    """Return the version of Landlock that the kernel offers, 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def _confine_files(libc: ctypes.CDLL) -> None:
    version = landlock_version()
    if not version:
        return
    rules = _Ruleset((1 << _FS_RIGHTS.get(version, 16)) - 1)
    if version >= _NET_VERSION:
        rules.handled_access_net = 0b11  # to bind and to connect TCP
    if version >= _SCOPE_VERSION:
        rules.scoped = 0b11  # abstract sockets and signals
    size = ctypes.c_size_t(ctypes.sizeof(rules))
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return
    for path in {*_readable()}:
        _admit(libc, ruleset, path)
    libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _admit(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    """Let a file, or what lies beneath a folder, be read; nothing where there is none."""
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rights = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
    rule = _PathBeneath(rights, parent)
    libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    os.close(parent)


def _readable() -> Iterator[str]:
    """Yield the folders from which code is still loaded: FFmpeg with the first video, Python's
    codecs, Pillow's and tifffile's rarer readers."""
    yield sysconfig.get_path("stdlib")
    yield sysconfig.get_path("platstdlib")
    yield str(Path(__file__).parents[1])
    for name in _LIBRARIES:
        found = find_spec(name)
        if found and found.origin:
            yield str(Path(found.origin).parents[1])  # beside it lie the libraries of its wheel
    yield "/etc/ld.so.cache"
    with open("/proc/self/maps") as maps:
        paths = (line.split(maxsplit=5)[-1].strip() for line in maps)
        yield from (os.path.dirname(path) for path in paths if ".so" in os.path.basename(path))


def _confine_calls(libc: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return
    _, seccomp = _ARCHITECTURES[machine]
    instructions = _filter(machine)
    array = (_Instruction * len(instructions))(*instructions)
    program = _Program(len(array), array)
    libc.syscall(seccomp, _SET_FILTER, _FLAGS, ctypes.byref(program))


def _filter(machine: str) -> list[_Instruction]:
    """Write the program that the kernel runs before each system call."""
    column = [*_ARCHITECTURES].index(machine)
    code = [
        _Instruction(_LOAD, 0, 0, _ARCH_AT),
        _Instruction(_EQUAL, 1, 0, _ARCHITECTURES[machine][0]),
        _Instruction(_RETURN, 0, 0, _KILL),
        _Instruction(_LOAD, 0, 0, _NUMBER_AT),
        _Instruction(_AT_LEAST, 0, 1, _X32),
        _Instruction(_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
    ]
    for numbers in _REFUSED.values():
        if (number := numbers[column]) is not None:
            code += [
                _Instruction(_EQUAL, 0, 1, number),
                _Instruction(_RETURN, 0, 0, _REFUSE | errno.EPERM),
            ]
    # The C library then asks for a thread by clone, whose flags can be seen from here.
    code += [
        _Instruction(_EQUAL, 0, 1, _CLONE3[column]),
        _Instruction(_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
    ]
    code += _unless(_CLONE[column], 0, _ANY_BIT, _CLONE_THREAD)
    code += _unless(_KILL_PROCESS[column], 0, _EQUAL, os.getpid())
    code += _unless(_TGKILL[column], 0, _EQUAL, os.getpid())
    code += _unless(_PRLIMIT[column], 0, _EQUAL, 0)
    code += _where(_IOCTL[column], 1, _TIOCSTI)
    return [*code, _Instruction(_RETURN, 0, 0, _ALLOW)]


def _unless(number: int, argument: int, test: int, operand: int) -> list[_Instruction]:
    """Refuse a call unless one of its arguments passes a test."""
    return [
        _Instruction(_EQUAL, 0, 4, number),
        _Instruction(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument),  # its lower half
        _Instruction(test, 1, 0, operand),
        _Instruction(_RETURN, 0, 0, _REFUSE | errno.EPERM),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]


def _where(number: int, argument: int, operand: int) -> list[_Instruction]:
    """Refuse a call where one of its arguments has a value."""
    return [
        _Instruction(_EQUAL, 0, 4, number),
        _Instruction(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument),
        _Instruction(_EQUAL, 0, 1, operand),
        _Instruction(_RETURN, 0, 0, _REFUSE | errno.EPERM),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]
