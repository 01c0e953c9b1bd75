//! The power button: every input device that can send `KEY_POWER`, including devices that appear later.
//!
//! The kernel loses presses that come before a program has opened the device. So [`watch`] is called before Ready, and
//! [`wait_for_button`] right before it, as another PID 1 may still be loading the driver.

use super::{mounts, shutdown};
use crate::console::say;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, inotify, open},
    io,
    ioctl::{self, opcode},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    os::fd::OwnedFd,
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// Bytes of a bit map with one bit for each key code up to `KEY_MAX`.
const KEY_BITS: usize = 96;
/// `struct input_event` of 64-bit systems: time, type, code, value.
const EVENT: usize = 24;

/// The directory in which the kernel, or udev if present, creates input devices.
const DEVICES: &str = "/dev/input";

/// How long Ready waits for a button. A guest without its driver pays this at each boot.
const DRIVERS: Duration = Duration::from_secs(2);

/// Whether a button is watched.
static WATCHED: Mutex<bool> = Mutex::new(false);
static CHANGED: Condvar = Condvar::new();

/// Starts to watch. Call it before Ready.
pub fn watch() {
    let mut buttons = Buttons::default();
    let news = match directory_news() {
        Ok(news) => Some(news),
        Err(e) => {
            say(format_args!("a power button that appears later will not be detected: {DEVICES}: {e}"));
            None
        }
    };
    // After the directory watch has begun, so that no device is missed in between.
    buttons.look(Path::new(DEVICES));
    crate::threads::background("power", move || {
        loop {
            match buttons.wait(news.as_ref()) {
                Ok(News::Pressed) => {
                    say("power button");
                    shutdown::power_off()
                }
                Ok(News::Devices) => buttons.look(Path::new(DEVICES)),
                Err(e) => return say(format_args!("the power button is not watched any more: {e}")),
            }
        }
    });
}

/// Waits briefly until a button is watched. Without one, only the host's request stops the guest.
pub fn wait_for_button() {
    let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = CHANGED.wait_timeout_while(watched, DRIVERS, |watched| !*watched);
    if !*waited.unwrap_or_else(PoisonError::into_inner).0 {
        say("no power button: only the host's shut-down request stops this guest cleanly");
    }
}

/// A descriptor that becomes readable when devices appear or change their mode.
fn directory_news() -> Result<OwnedFd, String> {
    mounts::directory(DEVICES, 0o755, (0, 0))?; // the kernel creates it with the first device
    let watch = || {
        let news = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&news, DEVICES, inotify::WatchFlags::CREATE | inotify::WatchFlags::ATTRIB)?;
        Ok(news)
    };
    watch().map_err(|e: io::Errno| e.to_string())
}

/// The event that ended a wait.
enum News {
    /// The power key was pressed.
    Pressed,
    /// The set of devices may have changed.
    Devices,
}

/// The open devices.
#[derive(Default)]
struct Buttons {
    open: BTreeMap<OsString, OwnedFd>,
    /// Devices without a power key.
    others: BTreeSet<OsString>,
}

impl Buttons {
    /// Opens new devices.
    fn look(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let known = self.open.contains_key(&name) || self.others.contains(&name);
            if known || !name.to_string_lossy().starts_with("event") {
                continue;
            }
            // A device that cannot be opened yet is tried again when its mode has changed.
            let Ok(device) = open(entry.path(), OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
            else {
                continue;
            };
            if can_power_off(&device) {
                self.open.insert(name, device);
                *WATCHED.lock().unwrap_or_else(PoisonError::into_inner) = true;
                CHANGED.notify_all();
            } else {
                self.others.insert(name);
            }
        }
    }

    /// Waits for an event. A device that can no longer be read is gone, and is closed.
    fn wait(&mut self, news: Option<&OwnedFd>) -> io::Result<News> {
        loop {
            let descriptors = self.open.values().chain(news);
            let mut polled: Vec<_> = descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
            io::retry_on_intr(|| poll(&mut polled, None))?;
            let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
            let (mut heard, mut gone) = (false, Vec::new());
            for ((name, button), _) in self.open.iter().zip(&ready).filter(|(_, ready)| **ready) {
                let mut events = [0; EVENT * 16];
                match io::read(button, &mut events) {
                    Ok(n) if n > 0 => heard |= pressed(&events[..n]),
                    Err(io::Errno::AGAIN | io::Errno::INTR) => {}
                    Ok(_) | Err(_) => gone.push(name.clone()),
                }
            }
            for name in gone {
                self.open.remove(&name);
            }
            if heard {
                return Ok(News::Pressed);
            }
            if let (Some(news), Some(true)) = (news, ready.last().filter(|_| news.is_some())) {
                let mut events = [0; 4096];
                while io::read(news, &mut events).is_ok_and(|n| n > 0) {}
                // Its name may return for another device.
                self.others.clear();
                return Ok(News::Devices);
            }
        }
    }
}

/// Whether the input events contain a press of the power key.
fn pressed(events: &[u8]) -> bool {
    events.chunks_exact(EVENT).any(|event| {
        let number = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
        number(16) == EV_KEY && number(18) == KEY_POWER && event[20..24] == 1i32.to_ne_bytes()
    })
}

/// Whether a key's bit is set.
fn has_key(bits: &[u8], key: u16) -> bool {
    bits.get(usize::from(key / 8)).is_some_and(|byte| byte >> (key % 8) & 1 == 1)
}

fn can_power_off(device: &OwnedFd) -> bool {
    const EVIOCGBIT_KEYS: ioctl::Opcode = opcode::read::<[u8; KEY_BITS]>(b'E', 0x20 + EV_KEY as u8);
    // SAFETY: EVIOCGBIT writes at most as many bytes as its opcode names, the size of this array, and any bytes are
    // valid. The kernel writes at least the whole words of the map; the rest is cut off below.
    let bits = unsafe { ioctl::ioctl(device, KeyBits::<EVIOCGBIT_KEYS>([0; KEY_BITS])) };
    bits.is_ok_and(|bits| has_key(&bits, KEY_POWER))
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
    fn a_press_is_read_from_any_device_even_after_another_has_gone() {
        // Reading from a removed device fails, as it does from a directory.
        let gone: OwnedFd = fs::File::open("/").unwrap().into();
        let (ended, writer) = std::io::pipe().unwrap();
        drop(writer);
        let (button, press) = std::io::pipe().unwrap();
        let open = [("event0", gone), ("event1", ended.into()), ("event2", button.into())];
        let mut buttons =
            Buttons { open: open.map(|(name, device)| (name.into(), device)).into(), others: BTreeSet::new() };
        io::write(&press, &[event(1, 115, 1), event(1, 116, 1)].concat()).unwrap();
        assert!(matches!(buttons.wait(None), Ok(News::Pressed)));
        let left: Vec<_> = buttons.open.keys().collect();
        assert_eq!(left, ["event2"], "the others are closed");
    }

    #[test]
    fn a_device_that_appears_is_looked_at_and_one_without_the_key_is_remembered() {
        let dir = std::env::temp_dir().join(format!("dvn-input-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let mut buttons = Buttons::default();
        fs::write(dir.join("event7"), "").unwrap();
        fs::write(dir.join("mouse0"), "").unwrap();
        buttons.look(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((buttons.open.len(), buttons.others), (0, [OsString::from("event7")].into()));
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
        fn no_bytes_panic(events in any::<Vec<u8>>(), key in any::<u16>()) {
            let _ = pressed(&events);
            let _ = has_key(&events, key);
        }
    }
}
