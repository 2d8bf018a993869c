"""An RTSP server on loopback that plays a clip to each who asks; run by the system's Python, which
has GStreamer: CLIP PORT."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
missing = [name for name in ("qtdemux", "rtph264pay") if Gst.ElementFactory.find(name) is None]
if missing:
    sys.exit(f"GStreamer has no {', '.join(missing)}")
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[2])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( filesrc location={sys.argv[1]} ! qtdemux ! rtph264pay name=pay0 pt=96 config-interval=1 )")
server.get_mount_points().add_factory("/clip", factory)
if server.attach(None) == 0:
    sys.exit("cannot listen")
print("ready", flush=True)
GLib.MainLoop().run()
