//! The exit codes, in words.

/// For the manual and the reference.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
   0  done
   2  the command line is wrong
   3  a setting is wrong
   4  no daemon answers
   5  this computer lacks something: a program, a right
   6  the guest bundle is wrong
   7  the guest did not come up
   8  somebody else has it: a port, the state directory
   9  the state directory: keys, disk, permissions, space
  10  the guest is up, but a connection to it failed
  11  there is no machine of that name, or no generation of that number
  70  a fault of this program
`ssh` exits as the command in the guest does; `doctor` with the code of the first failure it finds.";
