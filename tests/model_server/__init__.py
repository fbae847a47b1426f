"""A test double of TF Serving. Its speed says nothing of the server's.

Of the real thing are the protos (tensorflow-serving-api), REST paths, JSON forms, error codes and
messages (tensorflow/serving), and the C++ session of the export that answers. Its versions are
polled, warmed up before they go live, and labeled.
"""
