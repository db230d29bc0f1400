"""What every command shares: its flags, its errors, its progress."""

import os

# TensorFlow only reads packs here; without these variables it prints its log at every start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
