//! Clocks, timers, sleeping.

use super::{Run::*, calls};

calls! {
    "clock_gettime" [Int, Ptr] Host;
    "clock_settime" [Int, Ptr] Host;
    "clock_getres" [Int, Ptr] Host;
    "clock_nanosleep" [Int, Hex, Ptr, Ptr] Once;
    "clock_adjtime" [Int, Ptr] Host;
    "adjtimex" [Ptr] Host;
    "nanosleep" [Ptr, Ptr] Once;
    "gettimeofday" [Ptr, Ptr] Host;
    "settimeofday" [Ptr, Ptr] Host;
    "getitimer" [Int, Ptr] Host;
    "setitimer" [Int, Ptr, Ptr] Host;
    "timer_create" [Int, Ptr, Ptr] Host;
    "timer_settime" [Int, Hex, Ptr, Ptr] Host;
    "timer_gettime" [Int, Ptr] Host;
    "timer_getoverrun" [Int] Host;
    "timer_delete" [Int] Host;
    "timerfd_create" [Int, Hex] Host;
    "timerfd_settime" [Fd, Hex, Ptr, Ptr] Host;
    "timerfd_gettime" [Fd, Ptr] Host;
    "times" [Ptr] Host;
    "time" [Ptr] Host;
    "alarm" [Int] Host;
}
