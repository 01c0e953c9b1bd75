//! The power button: every input device that can send `KEY_POWER`.
//!
//! The kernel loses presses that come before anybody has opened the device, so it is opened before Ready is sent.

use super::{console::say, shutdown};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, open},
    io,
    ioctl::{self, opcode},
};
use std::{fs, os::fd::OwnedFd};

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// Bytes of a bit map that holds a bit for each key code up to `KEY_MAX`.
const KEY_BITS: usize = 96;
/// `struct input_event` of 64-bit systems: time, type, code, value.
const EVENT: usize = 24;

/// Starts to watch. Call it before Ready.
pub fn watch() {
    let buttons = buttons();
    if buttons.is_empty() {
        say("no power button: only the host's shut-down request stops this guest cleanly");
        return;
    }
    super::background("power", move || {
        loop {
            let mut polled: Vec<_> = buttons.iter().map(|button| PollFd::new(button, PollFlags::IN)).collect();
            if io::retry_on_intr(|| poll(&mut polled, None)).is_err() {
                return;
            }
            for (button, polled) in buttons.iter().zip(&polled) {
                let mut events = [0; EVENT * 16];
                if polled.revents().is_empty() {
                    continue;
                }
                match io::read(button, &mut events) {
                    Ok(n) if pressed(&events[..n]) => {
                        say("power button");
                        shutdown::power_off()
                    }
                    Ok(_) => {}
                    Err(e) => {
                        say(format_args!("power button: {e}"));
                        return;
                    }
                }
            }
        }
    });
}

/// Whether a read from an input device holds a press of the power key.
fn pressed(events: &[u8]) -> bool {
    events.chunks_exact(EVENT).any(|event| {
        let number = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
        number(16) == EV_KEY && number(18) == KEY_POWER && event[20..24] == 1i32.to_ne_bytes()
    })
}

/// Whether the bit of a key is set.
fn has_key(bits: &[u8], key: u16) -> bool {
    bits.get(usize::from(key / 8)).is_some_and(|byte| byte >> (key % 8) & 1 == 1)
}

fn buttons() -> Vec<OwnedFd> {
    const EVIOCGBIT_KEYS: ioctl::Opcode = opcode::read::<[u8; KEY_BITS]>(b'E', 0x20 + EV_KEY as u8);
    let devices = fs::read_dir("/dev/input").into_iter().flatten().flatten();
    devices
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("event"))
        .filter_map(|entry| open(entry.path(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok())
        .filter(|device| {
            // SAFETY: EVIOCGBIT writes at most as many bytes as its opcode names, the size of this array; all bytes are
            // valid values, and the kernel writes at least the map's whole words, the rest of what it leaves is cut off below.
            let bits = unsafe { ioctl::ioctl(device, KeyBits::<EVIOCGBIT_KEYS>([0; KEY_BITS])) };
            bits.is_ok_and(|bits| has_key(&bits, KEY_POWER))
        })
        .collect()
}

/// Like [`ioctl::Getter`], but zeroed: the kernel may fill only a part.
struct KeyBits<const OPCODE: ioctl::Opcode>([u8; KEY_BITS]);

// SAFETY: the pointer is to a zeroed array of the size which the opcode names; any content of it is valid.
unsafe impl<const OPCODE: ioctl::Opcode> ioctl::Ioctl for KeyBits<OPCODE> {
    type Output = [u8; KEY_BITS];
    const IS_MUTATING: bool = true;
    fn opcode(&self) -> ioctl::Opcode {
        OPCODE
    }
    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.0.as_mut_ptr().cast()
    }
    unsafe fn output_from_ptr(_: ioctl::IoctlOutput, pointer: *mut std::ffi::c_void) -> io::Result<Self::Output> {
        // SAFETY: it is the pointer of `as_ptr`.
        Ok(unsafe { pointer.cast::<[u8; KEY_BITS]>().read() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        [&[0; 16][..], &kind.to_ne_bytes(), &code.to_ne_bytes(), &value.to_ne_bytes()].concat()
    }

    #[test]
    fn only_a_press_of_the_power_key_counts() {
        assert!(pressed(&[event(0, 0, 0), event(1, 116, 1)].concat()));
        assert!(!pressed(&event(1, 116, 0)), "a release");
        assert!(!pressed(&event(1, 115, 1)), "another key");
        assert!(!pressed(&event(4, 116, 1)), "another type");
        assert!(!pressed(&event(1, 116, 1)[..23]), "half an event");
    }

    #[test]
    fn a_key_is_found_in_the_map() {
        let mut bits = [0; KEY_BITS];
        bits[14] = 1 << 4;
        assert!(has_key(&bits, KEY_POWER));
        assert!(!has_key(&bits, 115) && !has_key(&bits, u16::MAX));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(events in any::<Vec<u8>>(), key in any::<u16>()) {
            let _ = pressed(&events);
            let _ = has_key(&events, key);
        }
    }
}
