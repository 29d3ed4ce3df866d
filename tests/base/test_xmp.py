"""XMP packets: what they say, and to whom."""

import pytest

from synthgen import __version__
from synthgen.base.xmp import Origin, split

HOSTILE = "a <b>&\"'\r\n\t é 😀 ]]> --> <?xpacket end"
FOREIGN = b"""<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
<rdf:Description rdf:about='' xmlns:a='http://ns.adobe.com/xap/1.0/' a:CreatorTool='Camera 1'/>
<rdf:Description xmlns:e='http://iptc.org/std/Iptc4xmpExt/2008-02-29/' xmlns:xmp='http://other'
 e:AISystemUsed='Painter'><e:DigitalSourceType>%s</e:DigitalSourceType><xmp:CreatorTool>no</xmp:CreatorTool>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"""
COMPOSITE = b"http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def test_a_packet_is_read_back() -> None:
    for origin in (
        Origin(),
        Origin("compositeWithTrainedAlgorithmicMedia", "stabilityai/sdxl", "0123", HOSTILE),
        Origin(prompt="é" * 40_000),
    ):
        assert Origin.of(origin.packet()) == origin
        assert origin.packet() == origin.packet()


def test_characters_that_xml_cannot_hold_are_replaced() -> None:
    assert Origin.of(Origin(prompt="a\x00b\x1fc\ud800d\uffff").packet()).prompt == "a\ufffdb\ufffdc\ufffdd\ufffd"


def test_empty_fields_are_left_out() -> None:
    assert b"AISystem" not in (packet := Origin().packet()) and b"AIPrompt" not in packet
    assert f"<xmp:CreatorTool>synthgen {__version__}</xmp:CreatorTool>".encode() in packet


def test_packets_of_others_are_read_by_their_namespaces() -> None:
    assert Origin.of(FOREIGN % COMPOSITE) == Origin("compositeWithTrainedAlgorithmicMedia", "Painter")
    assert Origin.of(FOREIGN % b"http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture").system == "Painter"


@pytest.mark.parametrize(
    "packet",
    [b"", b"no XML", b"<a>", b'<!DOCTYPE a [<!ENTITY b "bbbb">]>' + FOREIGN % b"&b;", b"\xff\xfe<", b"<a/><b/>"],
)
def test_what_is_no_packet_says_nothing(packet: bytes) -> None:
    assert Origin.of(packet) == Origin()


def test_a_packet_that_fits_is_not_split() -> None:
    packet = Origin(system="x").packet()
    assert split(packet, len(packet)) == (packet, b"", b"")
    standard, extended, digest = split(packet, len(packet) - 1)
    assert digest and digest in standard and b"<?xpacket" not in extended
    assert Origin.of(standard) == Origin.of(extended) == Origin(system="x")


def test_a_packet_that_is_split_says_in_short_what_fits() -> None:
    standard, extended, _ = split(Origin(system="x", prompt="p" * 70_000).packet(), 65_000)
    assert len(standard) < 1500 and Origin.of(standard) == Origin(system="x")
    assert Origin.of(extended).prompt == "p" * 70_000
