from torchvision import models as models
from torchvision import transforms as transforms
