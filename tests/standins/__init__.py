"""What can't be had here, as real packages in a real apt repository. Each says that it is a stand-in."""
