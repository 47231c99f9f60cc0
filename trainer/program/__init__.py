"""The compiled program of a step: what Keras' fit computes, by any number of replicas."""
