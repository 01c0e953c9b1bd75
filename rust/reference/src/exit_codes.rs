//! The descriptions of the exit codes.

/// For the manual and the reference.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
   0  success
   2  the command line is wrong
   3  a setting is wrong
   4  no daemon answers
   5  the host lacks a requirement: a program, a permission, a processor feature
   6  the guest bundle is wrong
   7  the guest did not boot
   8  in use by another process: a port, the state directory; or not possible in the machine's state
   9  the state directory: keys, disk, permissions, space
  10  the guest is up, but a connection to it failed
  11  there is no machine of that name, or no generation of that number
  70  an internal error of this program
`ssh` exits as the command in the guest does; `doctor` with the code of the first failure it finds.";
