"""A simulated device: what the hub concludes about its stamps is never untrue.

The clocks are integers, so that no rounding of the simulation's own can excuse a miss.
"""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from sync.contacts import ANCHORS_MAX, BOOTS_MAX, Contacts, encode_contacts, interval_of
from sync.stamps import ClockSync, Stamp

SKEW_PPM_MAX = 150
START_US = 1_800_000_000_000_000


@dataclass
class Frame:
    received_us: int
    boot: bytes
    sent_ms: int
    anchor: tuple[int, int] | None


@dataclass
class Device:
    """True time in microseconds; its own clock in units of a millionth of one, exactly."""

    now_us: int = START_US
    clock: int = 0
    skew_ppm: int = 0
    boots: int = 0
    anchor: tuple[int, int] | None = None
    frames: list[Frame] = field(default_factory=list)
    stamps: list[tuple[Stamp, int, int | None]] = field(default_factory=list)

    @property
    def boottime_ms(self) -> int:
        return self.clock // 10**9

    @property
    def boot(self) -> bytes:
        return self.boots.to_bytes(6, "big")

    def wait(self, span_us: int) -> None:
        self.now_us += span_us
        self.clock += span_us * (10**6 + self.skew_ppm)

    def receive(self, latency_us: int) -> None:
        sent_ms = self.now_us // 1000
        self.wait(latency_us)
        self.anchor = (sent_ms, self.boottime_ms)

    def send(self, latency_us: int) -> None:
        """The frame may be kept back for long: the device goes on, and may have rebooted."""
        frame = Frame(self.now_us + latency_us, self.boot, self.boottime_ms, self.anchor)
        self.frames.append(frame)
        self.anchor = None

    def stamp(self, wall_ms: int, seen_after_us: int | None) -> None:
        stamp = Stamp(self.boot, self.boottime_ms, wall_ms, ClockSync(wall_ms % 3))
        seen_ms = None if seen_after_us is None else (self.now_us + seen_after_us) // 1000
        self.stamps.append((stamp, self.now_us // 1000, seen_ms))

    def reboot(self, off_us: int, skew_ppm: int) -> None:
        self.now_us += off_us
        self.clock = 0
        self.boots += 1
        self.skew_ppm = skew_ppm
        self.anchor = None


def check(device: Device, *, pin: bool) -> Contacts:
    """Feed the hub every frame in the order of arrival and judge every stamp at every step."""
    contacts = Contacts()
    frames = sorted(device.frames, key=lambda frame: frame.received_us)
    looks = {0, len(frames) // 2, len(frames) - 1}
    for position, frame in enumerate(frames):
        contacts = contacts.heard(
            boot=frame.boot,
            sent_ms=frame.sent_ms,
            received_ms=frame.received_us // 1000,
            anchor=frame.anchor,
        )
        if pin:
            for stamp, _, _ in device.stamps:
                if stamp.boot == frame.boot and stamp.boottime_ms <= frame.sent_ms:
                    contacts = contacts.pinned(stamp)
        if position in looks:
            judge(device, contacts)
    judge(device, contacts)
    assert len(contacts.boots) <= BOOTS_MAX
    assert len(encode_contacts(contacts)) < 8_192
    return contacts


def judge(device: Device, contacts: Contacts) -> None:
    for stamp, truth_ms, seen_ms in device.stamps:
        held = interval_of(stamp, contacts, seen_at_ms=seen_ms)
        assert held.contains(truth_ms), (stamp, held, truth_ms)


SECOND_US = 10**6
DAY_US = 24 * 3600 * SECOND_US
spans_us = st.integers(0, 5 * SECOND_US) | st.integers(0, 3 * DAY_US)
latencies_us = st.integers(0, 2 * SECOND_US) | st.integers(0, 2 * DAY_US)
skews_ppm = st.integers(-SKEW_PPM_MAX, SKEW_PPM_MAX)
steps = st.one_of(
    st.tuples(st.just("wait"), spans_us),
    st.tuples(st.just("skew"), skews_ppm),
    st.tuples(st.just("receive"), latencies_us),
    st.tuples(st.just("send"), latencies_us),
    st.tuples(st.just("send"), latencies_us),
    st.tuples(st.just("stamp"), st.integers(-(2**53), 2**53), st.none() | latencies_us),
    st.tuples(st.just("reboot"), spans_us, skews_ppm),
)


@given(st.lists(steps, max_size=60), skews_ppm, st.booleans())
@settings(max_examples=400)
def test_the_interval_of_a_stamp_holds_the_truth_whatever_the_device_goes_through(
    script: list[tuple[str, int] | tuple[str, int, int]], skew_ppm: int, pin: bool
) -> None:
    device = Device(skew_ppm=skew_ppm)
    for name, *arguments in script:
        if name == "skew":
            (device.skew_ppm,) = arguments
        else:
            getattr(device, name)(*arguments)
    check(device, pin=pin)


@given(
    seed=st.integers(0, 2**32),
    contacts_count=st.integers(50, 400),
    pause_s_max=st.sampled_from([1, 60, 3_600, 86_400]),
    jitter_us_max=st.sampled_from([1_000, 100_000, 30 * SECOND_US]),
    pin=st.booleans(),
)
@settings(max_examples=60)
def test_forgetting_contacts_never_excludes_the_truth(
    seed: int, contacts_count: int, pause_s_max: int, jitter_us_max: int, pin: bool
) -> None:
    random = Random(seed)
    device = Device(skew_ppm=random.randint(-SKEW_PPM_MAX, SKEW_PPM_MAX))
    for _ in range(contacts_count):
        device.wait(random.randint(0, pause_s_max * SECOND_US))
        device.receive(random.randint(0, jitter_us_max))
        if random.random() < 0.3:
            device.stamp(random.randint(-(2**40), 2**41), None)
        device.send(random.randint(0, jitter_us_max))
        if random.random() < 0.02:
            device.reboot(random.randint(0, 60 * SECOND_US), random.randint(-150, 150))
    contacts = check(device, pin=pin)
    assert all(len(boot.up) <= ANCHORS_MAX >= len(boot.down) for boot in contacts.boots)
