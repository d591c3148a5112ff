import base64

import pytest

from hub.export.events import BadSecret, Event, headers, secret_of, signature

EVENT = Event(
    id="5-7", type="fieldfare.change.v1", subject="d1", at_ms=1_700_000_000_123, content={"n": 7}
)


def test_an_event_is_a_cloudevent_in_structured_mode() -> None:
    assert EVENT.body("urn:fieldfare:hub:5") == (
        b'{"specversion":"1.0","id":"5-7","source":"urn:fieldfare:hub:5",'
        b'"type":"fieldfare.change.v1","subject":"d1","time":"2023-11-14T22:13:20.123Z",'
        b'"datacontenttype":"application/json","data":{"n":7}}'
    )
    assert headers(EVENT, b"", None, 5) == {
        "content-type": "application/cloudevents+json",
        "webhook-id": "5-7",
        "webhook-timestamp": "5",
    }


def test_a_signature_is_the_one_that_the_specification_works_out() -> None:
    # The example of Standard Webhooks 1.0.0.
    secret = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body, secret)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("text", ["", "whsec_", "not base64!", base64.b64encode(b"short").decode()])
def test_what_is_no_secret_or_too_short_signs_nothing(text: str) -> None:
    with pytest.raises(BadSecret):
        secret_of(text)
