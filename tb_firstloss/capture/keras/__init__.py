"""Everything that capture knows of Keras 3 and tf_keras."""
